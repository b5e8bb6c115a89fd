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
        built = self._signed(letter, source)
        directory = str(built.directory)
        fleet.command(
            *("release", "approve", directory, "--connection", str(fleet.ci)),
            *self._on_plan(letter, built, waves),
        )
        self._submit(built)
        return built

    def hand_in(self, letter: str, source: Path) -> Build:
        """Bring a release to the controller that nobody has approved yet.

        Raises:
            StepFailed: the controller did not accept it.
        """
        built = self._signed(letter, source)
        self._submit(built)
        return built

    def approve(self, letter: str, built: Build, *, waves: str) -> None:
        """Let a release that was handed in run, on a plan.

        Raises:
            StepFailed: the controller did not accept it.
        """
        fleet, document = self._fleet, built.document
        reply = fleet.command(
            *("release", "approve", document.model, document.version, "--yes"),
            *fleet.as_approver(),
            *self._on_plan(letter, built, waves),
        )
        if reply.get("status") != "accepted":
            raise StepFailed(f"the controller answered {reply}")

    def _signed(self, letter: str, source: Path) -> Build:
        built = self.build(letter, source)
        self._fleet.command(
            *("release", "sign", str(built.directory), "--connection", str(self._fleet.ci)),
            *("--key", str(self._fleet.trust / "ci" / f"{MODEL_NAME}.pem")),
        )
        return built

    def _on_plan(self, letter: str, built: Build, waves: str) -> tuple[str, ...]:
        fleet = self._fleet
        rollout = fleet.directory / f"rollout-{letter}.yaml"
        rollout.write_text(
            _ROLLOUT.format(
                model=MODEL_NAME, letter=letter, version=built.document.version, waves=waves
            )
        )
        return (
            *("--rollout", str(rollout)),
            *("--key", str(fleet.trust / "approver" / f"{MODEL_NAME}.pem")),
            *("--devices-per-class", str(max(1, fleet.devices_per_class))),
        )

    def _submit(self, built: Build) -> None:
        reply = self._fleet.command(
            *("release", "submit", str(built.directory), "--connection", str(self._fleet.ci)),
            ok=(0, 1, 4, 6, 8),
        )
        if reply.get("status") != "accepted":
            raise StepFailed(f"the controller answered {reply}")
