"""What an oracle says when something is that must never be."""


class Violation(AssertionError):
    def __init__(self, invariant: int, what: str) -> None:
        super().__init__(f"invariant {invariant}: {what}")
        self.invariant = invariant
