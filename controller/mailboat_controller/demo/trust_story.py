"""What happens after the mistakes: a release is withdrawn, and a stolen device is cut off."""

from mailboat_controller.demo.fleet import Fleet, until
from mailboat_controller.demo.models import MODEL_NAME, VERSIONS
from mailboat_controller.demo.narrator import Narrator, StepFailed
from mailboat_controller.demo.observer import Observer

AWAY = "gateway-3"  # hears of the withdrawal only when it is back
STOLEN = "kiosk-3"
EVERYBODY_SECONDS_MAX = 60
SOON_SECONDS_MAX = 40


class TrustStory:
    def __init__(self, fleet: Fleet, narrator: Narrator, observer: Observer) -> None:
        self._fleet = fleet
        self._narrator = narrator
        self._observer = observer

    def tell(self) -> None:
        self._b_is_withdrawn()
        self._a_stolen_device_is_cut_off()

    def _b_is_withdrawn(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter(f"Release B is withdrawn, while {AWAY} is away")
        fleet.devices[AWAY].link.cut()
        with narrator.promising("withdrawal_reaches_everybody"):
            self._withdraw("B", "it mishears children")
            present = fleet.devices.keys() - {AWAY}
            until(
                "everybody present is back at A",
                self._observer.all_run("A", present),
                EVERYBODY_SECONDS_MAX,
            )
            before = self._observer.serving()[AWAY]
            if before != VERSIONS["B"]:
                raise StepFailed(f"{AWAY} serves {before} though it heard nothing")
            fleet.devices[AWAY].link.mend()
            until(
                f"{AWAY} is back at A, too",
                self._observer.all_run("A", (AWAY,)),
                EVERYBODY_SECONDS_MAX,
            )
            narrator.passed(
                "withdrawal_reaches_everybody",
                f"{len(present)} devices stopped using {VERSIONS['B']} at once, {AWAY} when it "
                f"came back; all serve {VERSIONS['A']}, the last that is still approved",
                at_once=sorted(present),
                on_return=AWAY,
                version=VERSIONS["A"],
            )

    def _withdraw(self, letter: str, reason: str) -> None:
        fleet = self._fleet
        said = fleet.command(
            *("release", "withdraw", MODEL_NAME, VERSIONS[letter], "--reason", reason, "--yes"),
            *("--key", str(fleet.trust / "approver" / f"{MODEL_NAME}.pem")),
            *fleet.as_approver(),
        )
        if said.get("status") != "accepted":
            raise StepFailed(f"the controller answered {said}")

    def _a_stolen_device_is_cut_off(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        device = fleet.devices[STOLEN]
        narrator.chapter(f"{STOLEN} is stolen")
        with narrator.promising("stolen_device_cut_off"):
            fleet.command(
                *("device", "revoke", STOLEN, "--reason", "stolen from the lobby"),
                *("--connection", str(fleet.operator)),
            )
            until(
                f"{STOLEN} has no broker any more",
                lambda: device.read("status.json").get("connected") is False,
                SOON_SECONDS_MAX,
            )
            narrator.passed(
                "stolen_device_cut_off",
                "its open broker session was ended and its certificate is refused everywhere",
                device=STOLEN,
                connected=False,
                revoked=fleet.get(f"/v1/devices/{STOLEN}")["revoked"],
            )
