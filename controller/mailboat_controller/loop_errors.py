"""What ended a group of loops, as the one error that people are told."""

from mailboat_schemas.errors import MailboatError


def first_error(group: BaseExceptionGroup[MailboatError]) -> MailboatError:
    """One of the errors that ended the loops; whoever called knows what to do with each of them."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MailboatError)  # noqa: S101  `except*` let nothing else through
    return error
