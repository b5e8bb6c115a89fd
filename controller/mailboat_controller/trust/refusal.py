"""Why a submission is not taken, on its way to the answer."""


class Refusal(Exception):
    """``code`` is stable, ``reason`` is for whoever signed."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
