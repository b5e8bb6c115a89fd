"""What people sign beside releases: Config and Policy documents for classes, sites and devices.

In one story of seven, drawn from a seed of its own: the others are the same without it. Among
what is signed are mistakes: an older config that is not marked as one, and values for a release
that few devices have yet.
"""

import random
from typing import Any

from mailboat_controller.simulate.controller import SimulatedController
from mailboat_controller.simulate.fleet import Fleet
from mailboat_controller.simulate.releases import MODEL
from mailboat_controller.simulate.signed_documents import SignedDocuments
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import FleetDocument
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.fleet_documents import CONFIG_ROLE, POLICY_ROLE
from mailboat_schemas.maintenance import DAYS

DAY = 86_400.0
SHARE_OF_STORIES = 0.15  # each costs as much as two others
SHARE_THAT_STOPS = 0.7  # of these: some bound of staleness stops what serves
TIMESTAMP_SECONDS = 30 * 3600.0  # in half of those: a day and a quarter, signed again each day
SITES = ("-", "harbour", "mill")
ZONES = ("", "Asia/Kathmandu", "America/Los_Angeles", "Pacific/Auckland", "no/such-zone")
KINDS = {CONFIG_ROLE: ConfigDocument, POLICY_ROLE: PolicyDocument}


def zone_of(number: int) -> dict[str, str]:
    """The label of a device; the last of them has a zone that it does not know."""
    name = ZONES[number % len(ZONES)]
    return {"time-zone": name} if name else {}


class Signing:
    def __init__(self, fleet: Fleet, seed: int, classes: tuple[str, ...]) -> None:
        self._fleet = fleet
        self._rng = random.Random(f"signing:{seed}")
        self._classes = classes
        self._ranges = random.Random(f"ranges:{seed}")  # apart: what is drawn else stays as it is
        self._stops = random.Random(f"stops:{seed}")
        self._documents = SignedDocuments()
        self._newest: dict[str, tuple[int, int]] = {}  # epoch and version by path
        self.on = self._rng.random() < SHARE_OF_STORIES
        self.stops = self.on and self._stops.random() < SHARE_THAT_STOPS

    def begin(self, days: float) -> None:
        if not self.on:
            return
        rng = self._rng
        if self.stops and self._stops.random() < 0.5:
            self._fleet.controller.timestamp_seconds = TIMESTAMP_SECONDS
        for name in self._classes:
            self._sign(POLICY_ROLE, "class", name, self._policy())
            self._sign(CONFIG_ROLE, "class", name, self._config())
        self._hand_in()
        for _ in range(rng.randint(2, 10)):
            self._fleet.agenda.after(rng.uniform(0.1, days - 0.5) * DAY, self._somebody_signs)

    def urgency(self) -> dict[str, Any]:
        """Of a plan that is approved now."""
        if not self.on or self._rng.random() >= 0.25:
            return {}
        return {"urgency": "emergency", "reason": "people are locked out"}

    def _somebody_signs(self) -> SimulatedController:
        rng = self._rng
        role = rng.choice((CONFIG_ROLE, CONFIG_ROLE, POLICY_ROLE))
        levels = ("class", "site", "device") if role == CONFIG_ROLE else ("class", "site")
        level = rng.choice(levels)
        targets = {
            "class": self._classes,
            "site": SITES[1:],
            "device": tuple(self._fleet.devices),
        }
        target = rng.choice(targets[level])
        spec = self._config() if role == CONFIG_ROLE else self._policy()
        mark = rng.choice(("newer", "newer", "newer", "back", "mistake", "gone"))
        self._sign(role, level, target, spec, mark)
        self._hand_in()
        self._fleet.controller.reconcile()
        return self._fleet.controller

    def lift(self) -> None:
        """Trouble is over: windows, cadence and ranges hold nobody back any more."""
        if not self.on:
            return
        for place in list(self._documents.listed):
            if place.level != "class":
                self._documents = self._documents.without(place)
        for name in self._classes:
            rules: list[dict[str, Any]] = [
                {
                    "windows": [],
                    "days_between": 0,
                    "drill_every_days": 1,
                    "staleness": self._staleness(graces=(0, 6)),
                }
            ]
            self._sign(POLICY_ROLE, "class", name, {"rules": rules}, "back")
            self._sign(CONFIG_ROLE, "class", name, {"values": {"calm": True}}, "back")
        self._hand_in()
        self._fleet.controller.reconcile()

    # --- documents --------------------------------------------------------------------------------

    def _sign(
        self, role: str, level: str, target: str, spec: dict[str, Any], mark: str = "newer"
    ) -> None:
        path = f"{role}/{level}.{target}"
        epoch, version = self._newest.get(path, (0, 2))
        if mark == "gone":
            listed = self._documents.listed
            mine = [p for p in listed if (p.role, p.level, p.target) == (role, level, target)]
            for place in mine:
                self._documents = self._documents.without(place)
            return
        if mark == "newer" or version < 3:
            version += 1
        else:
            version -= 1
            epoch += mark == "back"
        document: FleetDocument = KINDS[role].model_validate(
            {
                "apiVersion": "mailboat/v1",
                "kind": role.title(),
                "metadata": {
                    "name": f"{level}-{target}".rstrip("-"),
                    "version": f"1.{version}.0",
                    "level": level,
                    "target": target,
                },
                "spec": spec,
            }
        )
        if mark != "mistake":
            self._newest[path] = (epoch, version)
        self._documents = self._documents.with_document(role, document, epoch)

    def _hand_in(self) -> None:
        self._fleet.controller.sign_documents(self._documents)

    def _policy(self) -> dict[str, Any]:
        """The first rule is for the canaries, the second for all."""
        rng = self._rng
        rules = [{"devices": "ring=canary", **self._rule()}] if rng.random() < 0.4 else []
        return {"rules": [*rules, self._rule()], **self._compatible()}

    def _compatible(self) -> dict[str, Any]:
        """What of releases and configs the policy is for; sometimes of none that there is yet."""
        rng, wanted = self._ranges, {}
        if rng.random() < 0.2:
            newest = len(self._fleet.controller.releases)
            wanted["models"] = {MODEL: f">={rng.randint(1, newest + 1)}"}
        if rng.random() < 0.2:
            wanted["config"] = f">=1.{rng.randint(2, 6)}"
        return {"compatible": wanted} if wanted else {}

    def _rule(self) -> dict[str, Any]:
        rng = self._rng
        rule: dict[str, Any] = {}
        if rng.random() < 0.7:
            rule["windows"] = [self._window() for _ in range(rng.randint(0, 2))]
        if rng.random() < 0.3:
            rule["download"] = "anytime"
        if rng.random() < 0.5:
            rule["days_between"] = rng.randint(0, 3)
        if rng.random() < 0.5:
            rule["staleness"] = self._staleness(graces=(0, 6, 24, 72))
        if rng.random() < 0.6:
            rule["drill_every_days"] = rng.randint(1, 3)
        return rule

    def _staleness(self, graces: tuple[int, ...]) -> dict[str, Any]:
        bound: dict[str, Any] = {"minor_versions_behind_max": self._rng.randint(0, 2)}
        if self.stops:
            bound["enforce"] = self._stops.choice(("report", "warn", "stop", "stop"))
            bound["grace_hours"] = self._stops.choice(graces)
        return bound

    def _window(self) -> dict[str, Any]:
        rng = self._rng
        days = rng.sample(DAYS, rng.randint(4, 7))
        window = {
            "days": [day for day in DAYS if day in days],
            "start": f"{rng.randrange(24):02}:{rng.choice((0, 30)):02}",
            "length_minutes": rng.choice((120, 360, 720)),
        }
        return window | ({"zone": "Europe/Berlin"} if rng.random() < 0.3 else {})

    def _config(self) -> dict[str, Any]:
        rng = self._rng
        names = rng.sample(("volume", "lamp", "wait"), rng.randint(1, 3))
        values: dict[str, Any] = {name: rng.randrange(100) for name in names}
        if rng.random() < 0.3:
            values["screen"] = {rng.choice("abc"): rng.randrange(10), rng.choice("abc"): None}
        spec: dict[str, Any] = {"values": values}
        if rng.random() < 0.4:
            newest = len(self._fleet.controller.releases)
            spec["compatible"] = {"models": {MODEL: f">={rng.randint(1, newest + 1)}"}}
        return spec
