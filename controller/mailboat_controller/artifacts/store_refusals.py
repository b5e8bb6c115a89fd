"""What goes wrong with an object store, for those who never speak to one themselves."""

from mailboat_schemas.errors import ConfigurationInvalid, OperatorNeeded, ServerUnavailable


class ObjectStoreUnavailable(ServerUnavailable):
    """The object store does not answer now, or is busy."""

    code = "E-OBJECT-STORE-UNAVAILABLE"


class ObjectStoreRefused(OperatorNeeded):
    """The object store answers, and will not do it until a person acts."""

    code = "E-OBJECT-STORE-REFUSED"


def disk_trouble(place: str, error: OSError) -> ConfigurationInvalid:
    """Of a store on a disk that does not do what it must."""
    return ConfigurationInvalid(
        f"The artifacts in {place} cannot be used: {error.strerror or error}.",
        next_step="look at that disk, at the rights of the user that runs `mailboat serve`, and at "
        "its limit of open files; the controller tries again by itself.",
    )
