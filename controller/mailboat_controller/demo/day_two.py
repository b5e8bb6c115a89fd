"""What comes after the first week: could a device go back, and is the fleet as it was written?"""

from typing import Any

from mailboat_controller.demo.fleet import Fleet, until
from mailboat_controller.demo.models import VERSIONS
from mailboat_controller.demo.narrator import Narrator, StepFailed
from mailboat_controller.demo.observer import Observer

DRILLED = "kiosk-2"
CLASS = "kiosk-x86"
EXIT_DIFFERENT = 3
OUTCOMES = ("drill_passed", "drill_failed", "drill_skipped")
SOON_SECONDS_MAX = 40


class DayTwo:
    def __init__(self, fleet: Fleet, narrator: Narrator, observer: Observer) -> None:
        self._fleet = fleet
        self._narrator = narrator
        self._observer = observer

    def tell(self) -> None:
        self._a_device_drills()
        self._the_fleet_is_compared()

    def _a_device_drills(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter(f"Could {DRILLED} go back, if it had to?")
        with narrator.promising("rollback_drilled"):
            fleet.command(
                *("drill", "start", DRILLED, "--reason", "could it go back?"),
                *("--connection", str(fleet.operator)),
            )
            until(f"{DRILLED} has drilled", self._drills, SOON_SECONDS_MAX)
            (told,) = self._drills()
            content = told["content"]
            if told["kind"] != "drill_passed" or told["version"] != VERSIONS["A"]:
                raise StepFailed(f"it told {told['kind']} of {told['version']}: {content['code']}")
            if (serves := self._observer.serving()[DRILLED]) != VERSIONS["B"]:
                raise StepFailed(f"it serves {serves}")
            milliseconds = content["evidence"]["return_ms"]
            narrator.passed(
                "rollback_drilled",
                f"{told['version']} was tried beside what serves and could take over in "
                f"{milliseconds:.0f} ms; {DRILLED} served {serves} all the time",
                device=DRILLED,
                could_go_back_to=told["version"],
                return_ms=milliseconds,
            )

    def _drills(self) -> list[dict[str, Any]]:
        return [each for each in self._fleet.events(DRILLED) if each["kind"] in OUTCOMES]

    def _the_fleet_is_compared(self) -> None:
        fleet, narrator = self._fleet, self._narrator
        narrator.chapter("Is the fleet as it is written in Git?")
        with narrator.promising("fleet_compared_with_documents"):
            checkout = fleet.directory / "checkout"
            checkout.mkdir(exist_ok=True)
            written = (fleet.directory / f"{CLASS}.yaml").read_text()
            (checkout / f"{CLASS}.yaml").write_text(written.replace("512MiB", "640MiB"))
            found = fleet.command(
                *("diff", "-f", str(checkout), "--connection", str(fleet.operator)),
                ok=(EXIT_DIFFERENT,),
            )
            fields = [one for each in found["results"] for one in each["differences"]]
            if len(fields) != 1:
                raise StepFailed(f"it found {found['results']}")
            (one,) = fields
            narrator.passed(
                "fleet_compared_with_documents",
                f"one field differs: {one['field']} of {CLASS} is {one['before']}, "
                f"and {one['after']} in the checkout",
                field=one["field"],
            )
