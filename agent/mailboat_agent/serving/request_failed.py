"""What a worker answers instead of an answer."""


class RequestFailed(Exception):
    """Answered to the agent; the worker goes on. ``kind`` is a word that `process` knows."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
