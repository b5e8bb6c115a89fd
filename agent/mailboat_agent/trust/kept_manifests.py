"""The signed bytes that decisions were made on: ``manifests/<counter>``, the newest few."""

from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import disk_errors, make_directory, replace_durably

MANIFESTS_KEPT = 3
MANIFEST_BYTES_MAX = 1 << 20


class KeptManifests:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, counter: int, bundle: bytes) -> None:
        """The newest `MANIFESTS_KEPT` stay.

        Raises:
            DiskFull, DiskFailing
        """
        with disk_errors("keeping the manifest"):
            make_directory(self._directory)
        replace_durably(self._directory / str(counter), bundle)
        counters = numbers_in(self._directory)
        # A director with a new key counts anew: higher counters are its predecessor's.
        upto = counters.index(counter) + 1
        for old in counters[upto:] + counters[: max(0, upto - MANIFESTS_KEPT)]:
            with suppress(OSError):
                (self._directory / str(old)).unlink()

    def newest(self) -> bytes | None:
        """The kept bundle with the highest counter that can be read; it still proves itself, and
        may be older than the newest that was accepted."""
        for counter in reversed(numbers_in(self._directory)):
            with suppress(OSError, ValueError):
                return read_bounded(self._directory / str(counter), MANIFEST_BYTES_MAX)
        return None

    def repair(self, counter: int, bundle: bytes) -> str:
        """Write the bundle again if the disk does not hold it; what was wrong, or "".

        Raises:
            DiskFull, DiskFailing: it is still so.
        """
        try:
            if read_bounded(self._directory / str(counter), MANIFEST_BYTES_MAX) == bundle:
                return ""
            problem = f"manifest {counter} has changed"
        except (OSError, ValueError) as error:
            problem = f"manifest {counter}: {error}"
        self.keep(counter, bundle)
        return problem


def numbers_in(directory: Path) -> list[int]:
    """The names in a directory that are numbers, ascending; complete by the way they are made."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii())


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Raises OSError, ValueError: it is longer."""
    with path.open("rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ValueError(f"{path.name} has more than {bytes_max} bytes")
    return content
