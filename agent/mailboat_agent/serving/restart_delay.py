"""How long a lane waits before it starts a worker again that keeps dying."""

RESTART_DELAY_SECONDS_MAX = 64  # none, 1, 2, 4 … s between starts of a worker that keeps dying


def restart_delay_seconds(restarts_in_a_row: int) -> float:
    """At once the first time, then 1 s doubled up to the bound."""
    if restarts_in_a_row == 0:
        return 0.0
    return float(min(RESTART_DELAY_SECONDS_MAX, 1 << min(restarts_in_a_row - 1, 30)))
