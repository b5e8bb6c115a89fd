"""structlog without what draws its tracebacks: ours are text, see `logs.configure`.

Where rich is installed, as it is for our own tables and help, structlog imports all of it and keeps
it for good: eighty modules, and a twentieth of a controller's start.
"""

from mailboat_schemas.key_services import import_without

_DRAWS_TRACEBACKS = ("rich",)


def load() -> None:
    """For the beginning of a long process, before anything else of it imports structlog."""
    import_without("structlog", _DRAWS_TRACEBACKS)
