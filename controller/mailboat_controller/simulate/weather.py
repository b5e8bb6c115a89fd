"""What goes wrong, how often: the adversary of a simulation, in rates. Zero is a calm day."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """``drop``, ``duplicate``: of messages, shares. ``late_seconds``: what a message takes on top
    of its latency, on average; two of them may overtake each other. ``…_per_day``: for each device,
    or for the broker, on average."""

    drop: float = 0.0
    duplicate: float = 0.0
    late_seconds: float = 0.0
    corrupt: float = 0.0  # of downloads: not the bytes that were asked for
    cut_in_step: float = 0.0  # power fails inside a write to the disk, a share of writes
    cuts_per_day: float = 0.0  # at any other moment
    stops_per_day: float = 0.0  # the agent is told to stop, and started again
    journal_lost: float = 0.0  # at a boot
    clock_steps_per_day: float = 0.0
    rot_per_day: float = 0.0  # a file on the disk changes
    hostile_per_day: float = 0.0  # the broker replays, forges, or swaps classes
    controller_dies: float = 0.0  # before the commit, a share of messages
    broker_forgets_per_day: float = 0.0  # what it retained, and everybody's session


CALM = Weather()
