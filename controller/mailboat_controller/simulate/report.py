"""What a simulation says: for people, and as JSON."""

import math
from typing import Any

from mailboat_controller.rollout.state import Phase
from mailboat_controller.simulate.exposure import thinned
from mailboat_controller.simulate.running import Ran

FORMAT = "mailboat/simulation-report/v1"
SHARES = (0.5, 0.95, 0.99)
POINTS_MAX = 500
ABOVE_SHOWN_MAX = 20


def converged_seconds(ran: Ran) -> dict[str, float | None]:
    """When so many per cent of all devices had committed; None: not while it was watched."""
    at, devices = sorted(ran.exposure.good_at), ran.scenario.spec.devices
    needed = {share: math.ceil(share * devices) for share in SHARES}
    return {
        f"{share:.0%}": at[count - 1] if count <= len(at) else None
        for share, count in needed.items()
    }


def halted_seconds(ran: Ran) -> float | None:
    times = [at for at, what, _ in ran.exposure.moves if what == Phase.HALTED.value]
    return times[0] if times else None


def as_json(ran: Ran) -> dict[str, Any]:
    exposure = ran.exposure
    return {
        "format": FORMAT,
        "scenario": ran.scenario.model_dump(mode="json", by_alias=True, exclude_none=True),
        "phase": ran.rollout.phase.value,
        "because": ran.rollout.because,
        "days": ran.seconds / 86_400,
        "steps": ran.steps,
        "halted_seconds": halted_seconds(ran),
        "converged_seconds": converged_seconds(ran),
        "exposure": {
            "devices": exposure.reached_devices,
            "allowed": sum(exposure.allowed.values()),
            "never_above": not exposure.above,
            "above": exposure.above[:ABOVE_SHOWN_MAX],
            "good": len(exposure.good),
            "bad": len(exposure.bad),
            "running_it_at_the_end": ran.running_it,
        },
        "bytes": {
            "artifacts": ran.downloaded_bytes,
            "messages_up": ran.bytes_up,
            "messages_down": ran.bytes_down,
        },
        "messages": ran.messages,
        "manifests_published": ran.manifests,
        "moves": [
            {"seconds": at, "what": what, "because": because}
            for at, what, because in exposure.moves
        ],
        "points": [
            {
                "seconds": point.seconds,
                "exposed": point.exposed,
                "allowed": point.allowed,
                "good": point.good,
                "bad": point.bad,
            }
            for point in thinned(exposure.points, POINTS_MAX)
        ],
    }


def as_text(ran: Ran) -> str:
    exposure, spec = ran.exposure, ran.scenario.spec
    lines = [f"{spec.devices} devices, about {spec.offline:.0%} off the air at any moment."]
    if spec.release.broken:
        lines.append(f"The release is bad on {spec.release.broken:.0%} of them.")
    lines.append("")
    lines += [f"{duration(at):>10}  {what}: {because}" for at, what, because in exposure.moves]
    above = "never above it" if not exposure.above else f"ABOVE IT {len(exposure.above)} TIMES"
    exposed = (
        f"exposed    {exposure.reached_devices} devices; "
        f"{sum(exposure.allowed.values())} allowed, {above}"
    )
    verdicts = (
        f"verdicts   {len(exposure.good)} good, {len(exposure.bad)} bad; "
        f"{ran.running_it} devices run it at the end"
    )
    lines += ["", exposed, verdicts]
    halted = halted_seconds(ran)
    if halted is not None:
        lines.append(f"halted     after {duration(halted)}")
    else:
        times = (
            f"{share} {'not yet' if at is None else 'after ' + duration(at)}"
            for share, at in converged_seconds(ran).items()
        )
        lines.append("converged  " + ", ".join(times))
    bytes_line = (
        f"bytes      {size(ran.downloaded_bytes)} of artifacts in {ran.downloads} downloads, "
        f"{size(ran.bytes_down)} of messages down, {size(ran.bytes_up)} up"
    )
    lines += [
        bytes_line,
        f"published  {ran.manifests} manifests",
        f"watched    {duration(ran.seconds)}, {ran.steps} steps",
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} d"


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    return f"{value:.1f} TiB"
