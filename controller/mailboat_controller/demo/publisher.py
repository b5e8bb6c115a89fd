"""CI and the approver of the demo: build, sign, approve, submit, by the commands they would use."""

from pathlib import Path

from mailboat_controller.demo.fleet import Fleet
from mailboat_controller.demo.models import MODEL_NAME
from mailboat_controller.demo.narrator import StepFailed
from mailboat_controller.releases.build import Build, read_build

_ROLLOUT = """\
apiVersion: mailboat/v1
kind: Rollout
metadata: {{name: {model}-{letter}}}
spec:
  release: {{model: {model}, version: {version}}}
  waves:
    {waves}
"""


class Publisher:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def build(self, letter: str, source: Path) -> Build:
        directory = self._fleet.directory / "builds" / letter
        self._fleet.command("release", "build", str(source), "--out", str(directory))
        return read_build(directory)

    def publish(self, letter: str, source: Path, *, waves: str) -> Build:
        """Bring a release to the controller, with an approved plan.

        Raises:
            StepFailed: the controller did not accept it.
        """
        fleet = self._fleet
        built = self.build(letter, source)
        directory = str(built.directory)
        rollout = fleet.directory / f"rollout-{letter}.yaml"
        rollout.write_text(
            _ROLLOUT.format(
                model=MODEL_NAME, letter=letter, version=built.document.version, waves=waves
            )
        )
        connection = ("--connection", str(fleet.ci))
        fleet.command(
            *("release", "sign", directory, *connection),
            *("--key", str(fleet.trust / "ci" / f"{MODEL_NAME}.pem")),
        )
        fleet.command(
            *("release", "approve", directory, "--rollout", str(rollout), *connection),
            *("--key", str(fleet.trust / "approver" / f"{MODEL_NAME}.pem")),
            *("--devices-per-class", str(max(1, fleet.devices_per_class))),
        )
        reply = fleet.command("release", "submit", directory, *connection, ok=(0, 1, 4, 6, 8))
        if reply.get("status") != "accepted":
            raise StepFailed(f"the controller answered {reply}")
        return built
