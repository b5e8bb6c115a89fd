"""What people signed for a device beside releases: the rules it goes by, and its config.

As `device_rules` and `overlays.in_force` of the agent. The config in force is recorded, so it
outlives a power cut; everything else follows from what is verified.
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING

from mailboat_agent.overlays.record import Recorded
from mailboat_agent.overlays.wanted import wanted_config
from mailboat_controller.simulate.releases import MODEL
from mailboat_controller.simulate.signed_documents import (
    NO_DOCUMENTS,
    NOTHING_BROUGHT,
    Brought,
    SignedDocuments,
    policy_for,
)
from mailboat_controller.simulate.staleness import StalenessLook
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.overlays import NO_CONFIG, ConfigChoice, EffectiveConfig, Running, choose
from mailboat_schemas.policy_rules import NO_RULES, PolicyRange, Rules, rules_for

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


class RulesAndConfig:
    """``recorded`` is durable; `look` brings the rest up to it.

    What a document says is read again when another one came, not at every look: the names that
    end in ``_from`` hold what the value beside them was made of.
    """

    __slots__ = (
        "_choice_from", "_device", "_looked_at", "_rules_from", "_wanted", "_wanted_from",
        "choice", "policy_ranges", "policy_version", "problem", "recorded", "rules", "staleness",
    )  # fmt: skip

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self.recorded = Recorded()
        self.rules: Rules = NO_RULES
        self.policy_version: str | None = None
        self.policy_ranges: tuple[PolicyRange, ...] = ()
        self.problem = ""  # why what is listed is not taken
        self._rules_from: tuple[object, ...] = ()
        self._wanted: EffectiveConfig = NO_CONFIG.in_force
        self._wanted_from: tuple[object, ...] = ()
        self.staleness = StalenessLook(device)
        self.forget()

    def forget(self) -> None:
        """What a process does not outlive; it comes to the same again."""
        self._looked_at: tuple[object, ...] = ()
        self.staleness.forget()
        self.choice: ConfigChoice = NO_CONFIG
        self._choice_from: tuple[object, ...] = ()
        if self.recorded.current.layers:
            self.choice = ConfigChoice(in_force=self.recorded.current)

    def look(self) -> None:
        """As things stand now. Raises PowerCut, before or after what it records."""
        device = self._device
        signed = device.roles.documents
        if signed is NO_DOCUMENTS and not self._rules_from:
            return
        seen = (device.roles, device.manifest, device.record)
        if not self._looked_at or not all(map(is_, seen, self._looked_at)):
            self._read(signed)
            self._looked_at = seen
        self.staleness.look(self.rules.staleness)

    def _read(self, signed: SignedDocuments) -> None:
        device = self._device
        brought = NOTHING_BROUGHT if device.manifest is None else device.manifest.brought
        self._read_rules(signed, brought)
        self._read_config(signed, brought)
        self._take_config()

    def _read_rules(self, signed: SignedDocuments, brought: Brought) -> None:
        if self._rules_from and all(map(is_, (signed, brought), self._rules_from)):
            return
        device = self._device
        policy = policy_for(signed, brought, device.hardware_class, device.site)
        self.policy_version, self.policy_ranges = policy.version, policy.ranges
        rules = rules_for(
            policy.before(()),  # no class document here gives rules
            device=device.device,
            hardware_class=device.hardware_class,
            site=device.site,
            labels=device.labels,
        )
        self.rules = replace(rules, lacking=policy.problem) if policy.problem else rules
        self._rules_from = (signed, brought)

    def _read_config(self, signed: SignedDocuments, brought: Brought) -> None:
        made_of = (signed, brought, self.recorded)
        if self._wanted_from and all(map(is_, made_of, self._wanted_from)):
            return
        device, recorded = self._device, self.recorded
        self._wanted, self.problem = recorded.current, ""
        try:
            listed = signed.config_for(device.hardware_class, device.site, device.device)
            self._wanted = wanted_config(listed, brought.documents, recorded.layers())
        except MailboatError as error:
            self.problem = error.what
        self._wanted_from = made_of

    def _take_config(self) -> None:
        device, recorded = self._device, self.recorded
        made_of = (self._wanted, recorded, device.state.serving, device.roles, self._rules_from)
        if self._choice_from and all(map(is_, made_of, self._choice_from)):
            return
        choice = choose(
            self._wanted,
            recorded.current,
            recorded.earlier,
            self._running(),
            self.policy_version,
            self.policy_ranges,
        )
        if not choice.in_force.has_the_layers_of(recorded.current):
            device.moment()
            self.recorded = recorded.followed_by(choice.in_force)
            device.moment()
        self.choice, self._choice_from = choice, made_of

    def _running(self) -> Sequence[Running]:
        serving = self._device.state.serving
        known = None if serving is None else self._device.roles.known.get(serving.digest)
        if serving is None or known is None or known.document is None:
            return ()
        ranges = known.document.compatibility
        return (Running(model=MODEL, version=serving.version, compatibility=ranges),)

    @property
    def in_force(self) -> EffectiveConfig:
        return self.choice.in_force
