"""What goes wrong with an object store, for those who never speak to one themselves."""

from mailboat_schemas.errors import OperatorNeeded, ServerUnavailable


class ObjectStoreUnavailable(ServerUnavailable):
    """The object store does not answer now, or is busy."""

    code = "E-OBJECT-STORE-UNAVAILABLE"


class ObjectStoreRefused(OperatorNeeded):
    """The object store answers, and will not do it until a person acts."""

    code = "E-OBJECT-STORE-REFUSED"
