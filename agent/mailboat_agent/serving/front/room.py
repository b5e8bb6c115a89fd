"""How many bytes of requests and answers the gateway holds at once, all callers together."""

HELD_BYTES_MAX = 64 << 20  # bodies, the tensors made of them, and answers not yet taken; then 503


class Room:
    """Touched by the event loop only."""

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.held_bytes = 0

    def lease(self) -> "Lease":
        return Lease(self)

    def has(self, more_bytes: int) -> bool:
        return self.held_bytes + more_bytes <= self._bytes_max


class Lease:
    """What one request holds of it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def grow_to(self, size_bytes: int) -> bool:
        """Hold at least so much; False when there is no room for it."""
        more = size_bytes - self._bytes
        if more <= 0:
            return True
        if not self._room.has(more):
            return False
        self.set(size_bytes)
        return True

    def answer(self, size_bytes: int) -> bool:
        """Hold so much instead; False when there is no room for it. Alone one may be of any size:
        it is there already, and would be no smaller the next time."""
        others = self._room.held_bytes - self._bytes
        if others and not self._room.has(size_bytes - self._bytes):
            return False
        self.set(size_bytes)
        return True

    def set(self, size_bytes: int) -> None:
        """Hold just so much, room or not: it is there already."""
        self._room.held_bytes += size_bytes - self._bytes
        self._bytes = size_bytes

    def release(self) -> None:
        self.set(0)
