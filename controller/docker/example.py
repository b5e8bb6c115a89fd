# ruff: noqa: INP001  a program of the image, in no package
"""Write the sources of a first release, and a plan for it, into the directory that is named.

The model is tiny and made on the spot, so that a new stack has something to publish without a
network.
"""

import shutil
import sys
from pathlib import Path

import yaml

from mailboat_controller.demo.models import KIOSK, made_series, write_release_sources

SOAK_SECONDS = 5.0
ROLLOUT = """\
apiVersion: mailboat/v1
kind: Rollout
metadata: { name: first }
spec:
  release: { model: vad, version: 6.0.0 }
  waves:
    - pilots: [kiosk-1]
    - percent: 100
"""


def main(directory: Path) -> None:
    written = write_release_sources(made_series(), directory / "series", soak_seconds=SOAK_SECONDS)
    source = written["A"]
    content = yaml.safe_load(source.read_text())
    content["metadata"]["description"] = "A small untrained model: something to publish."
    variants = content["spec"]["variants"]
    content["spec"]["variants"] = [each for each in variants if KIOSK in each["hardware_classes"]]
    for variant in content["spec"]["variants"]:
        # Nobody asks these devices anything, and an idle soak would wait for ever.
        variant["health"]["soak"]["requests_min"] = 0
    source.write_text(yaml.safe_dump(content, sort_keys=False))
    source.parent.rename(directory / "release")
    shutil.rmtree(directory / "series")
    (directory / "rollout.yaml").write_text(ROLLOUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
