# ruff: noqa: INP001, T201  a program of the image's build, in no package
"""Name every installed package that a requirement does not need; for `pip uninstall`.

    unneeded.py 'mailboat[demo]'

The lock holds what builds, checks and tests as well. What an image runs is worked out from the
packages' own metadata, so that no list of the rest has to be kept.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# They take the rest away, so whoever calls this takes them away last.
INSTALLERS = frozenset({"pip", "setuptools"})


def needed_by(wanted: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The package's own name and those of all it needs here, extras by extras."""
    name = canonicalize_name(wanted.name)
    yield name
    for extra in ("", *sorted(wanted.extras)):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield from needed_by(requirement, seen)


def main(wanted: str) -> None:
    installed = {canonicalize_name(each.name) for each in distributions()}
    print(*sorted(installed - set(needed_by(Requirement(wanted), set())) - INSTALLERS), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
