"""A device's store: files by digest, whole or not, and what a download brings."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Disk:
    """``held`` are names the device believes in; ``rotten`` those whose bytes are other ones.

    Files are shared out by reference: most devices of a fleet hold the same ones.
    """

    held: frozenset[str] = frozenset()
    rotten: set[str] = field(default_factory=set)
    set_aside: frozenset[str] = frozenset()
    parts: dict[str, float] = field(default_factory=dict)  # seconds of a download that are done

    def put(self, digests: frozenset[str], *, as_asked: bool) -> bool:
        """What a download brought, under its names if the bytes hash to them; whether they did."""
        if not as_asked:
            return False
        self.held |= digests
        self.set_aside -= digests
        self.rotten -= digests
        return True

    def is_whole(self, digests: frozenset[str]) -> bool:
        """The bytes themselves, hashed again."""
        return digests <= self.held and self.rotten.isdisjoint(digests)

    def set_rotten_aside(self) -> frozenset[str]:
        """What a check of all files finds, and takes out of the store."""
        found = frozenset(self.rotten & self.held)
        if found:
            self.held -= found
            self.set_aside |= found
        self.rotten.clear()
        return found

    def keep_only(self, digests: frozenset[str]) -> None:
        """Garbage collection."""
        if not self.held <= digests:
            self.held &= digests
            self.rotten &= digests
        self.parts = {name: seconds for name, seconds in self.parts.items() if name in digests}
