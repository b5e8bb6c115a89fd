"""What can go wrong with a call, by what the application does next."""


class ClientError(Exception):
    """``status`` is that of HTTP, None where none came. ``again`` says that waiting may help."""

    def __init__(self, what: str, *, status: int | None = None, again: bool = False) -> None:
        super().__init__(what)
        self.status = status
        self.again = again


class Late(ClientError):
    """The deadline passed, here or on the device."""
