"""What a person types before something that devices will feel: the name of what it is about."""

from mailboat_schemas.errors import OperatorNeeded

REASON_CHARS_MAX = 1000


class NotConfirmed(OperatorNeeded):
    code = "E-NOT-CONFIRMED"


def check(typed: str, expected: str, reason: str) -> str:
    """The reason, trimmed.

    Raises:
        NotConfirmed: another name was typed, or no reason given.
    """
    if typed.strip() != expected:
        raise NotConfirmed(
            f"What was typed is not {expected}; nothing was done.",
            next_step=f"type {expected} exactly as it is written, if it is the one you mean.",
        )
    reason = "".join(each if each.isprintable() else " " for each in reason).strip()
    if not reason or len(reason) > REASON_CHARS_MAX:
        raise NotConfirmed(
            "A change needs a reason, which the audit log keeps; nothing was done.",
            next_step=f"say in a sentence why (at most {REASON_CHARS_MAX} characters).",
        )
    return reason
