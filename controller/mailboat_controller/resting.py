"""How long a loop stays away from the database after a turn."""

import time

# Deciding loads the classes of running rollouts and keeps other writers out; counting reads them.
# In a large fleet either takes seconds, so each rests this many times as long as it took.
REST_FACTOR = 4.0


def rest_seconds(started: float, seconds_min: float) -> float:
    """After a turn that began at ``started`` (monotonic)."""
    return max(seconds_min, REST_FACTOR * (time.monotonic() - started))
