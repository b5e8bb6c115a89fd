# ruff: noqa: INP001  a program of the image, in no package
"""Write the sources of a few releases, and a plan for each, into the directory that is named.

    a/ a good first release         b/ its last layer tuned: comes as a patch
    c/ a bad export: wrong answers, which its trial finds on the first device
    d/ fails on clipped audio, which only live traffic has: found while it soaks, and rolled back

The models are tiny and made on the spot, so that a new stack has something to publish without a
network.
"""

import sys
from pathlib import Path

import yaml

from mailboat_controller.demo.models import (
    KIOSK,
    VERSIONS,
    made_series,
    write_release_sources,
)

LETTERS = "ABCD"
SOAK_SECONDS = 5.0
LONG_SOAK_SECONDS = 120.0  # of D, for somebody to ask it meanwhile
ROLLOUT = """\
apiVersion: mailboat/v1
kind: Rollout
metadata: {{ name: {name} }}
spec:
  release: {{ model: vad, version: {version} }}
  waves:
    - pilots: [kiosk-1]
    - percent: 100
"""


def main(directory: Path) -> None:
    written = write_release_sources(made_series(), directory, soak_seconds=SOAK_SECONDS)
    for letter, source in written.items():
        name = letter.lower()
        if letter not in LETTERS:
            for path in source.parent.iterdir():
                path.unlink()
            source.parent.rmdir()
            continue
        content = yaml.safe_load(source.read_text())
        variants = content["spec"]["variants"]
        kept = [each for each in variants if KIOSK in each["hardware_classes"]]
        for variant in kept:
            soak = variant["health"]["soak"]
            # Nobody asks these devices anything, and an idle soak would wait for ever.
            soak["requests_min"] = 0
            if letter == "D":
                soak["seconds"] = LONG_SOAK_SECONDS
        content["spec"]["variants"] = kept
        source.write_text(yaml.safe_dump(content, sort_keys=False))
        plan = ROLLOUT.format(name=name, version=VERSIONS[letter])
        (source.parent / "rollout.yaml").write_text(plan)
        source.parent.rename(directory / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
