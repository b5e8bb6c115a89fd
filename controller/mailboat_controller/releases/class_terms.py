"""What a class's document says of its devices, beside which releases they are given. Pure."""

from dataclasses import dataclass
from typing import Any, Self

from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.policy_rules import PolicyRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTerms:
    """As `DesiredState` tells them."""

    failure_mode: FailureMode = FailureMode.FAIL_SAFE
    metered: bool = False
    rules: tuple[PolicyRule, ...] = ()
    budgets: ClassBudgets = NO_BUDGETS

    @classmethod
    def of(cls, document: HardwareClass) -> Self:
        spec = document.spec
        return cls(
            failure_mode=spec.failure_mode,
            metered=spec.metered,
            rules=spec.policy_rules(),
            budgets=spec.budgets,
        )

    @property
    def told(self) -> dict[str, Any]:
        """For comparing what is wanted with what was published."""
        return {
            "failure_mode": self.failure_mode.value,
            "metered": self.metered,
            "rules": [each.model_dump(mode="json") for each in self.rules],
            "budgets": self.budgets.model_dump(mode="json"),
        }


NO_TERMS = ClassTerms()
