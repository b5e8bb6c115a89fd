"""Does somebody else take this device's session at the broker?

Two machines with one identity end each other's connection again and again. A broker may say so
(MQTT 5, "Session taken over"); mosquitto 2.0 over TLS just closes. So connections that end soon
after they were made, several in a row, are told as well; a network that is merely bad seldom makes
them.
"""

from mailboat_schemas.errors import OperatorNeeded

TAKEN_OVER = "Session taken over"  # MQTT 5, reason code 0x8E
SHORT_SECONDS = 90.0  # longer than two that back off to a minute leave each other
SHORT_IN_A_ROW = 5


class SessionTaken(OperatorNeeded):
    """Somebody else seems to connect to the broker as this device."""

    code = "E-SESSION-TAKEN"

    def __init__(self, because: str) -> None:
        super().__init__(
            f"This device's session at the broker is taken: {because}.",
            next_step="look for a second machine with this identity and stop it; if you know of "
            "none, revoke the device and enrol it under another name. If the broker or the network "
            "restarts all the time, it is that.",
        )


class Flapping:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._up_at: float | None = None
        self._short = 0

    def up(self, at: float) -> None:
        self._up_at = at

    def down(self, at: float, reason: str) -> SessionTaken | None:
        """What there is to tell, now that a connection, or an attempt at one, has ended."""
        up_at, self._up_at = self._up_at, None
        if up_at is None:
            return None  # the broker was not reached at all
        self._short = self._short + 1 if at - up_at < SHORT_SECONDS else 0
        if reason == TAKEN_OVER:
            return SessionTaken("the broker says so")
        if self._short >= SHORT_IN_A_ROW:
            return SessionTaken(f"{self._short} connections in a row ended within seconds")
        return None
