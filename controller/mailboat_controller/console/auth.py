"""Which pages are for whom. As `api/identity.py`, but whoever is nobody is led to the login."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from mailboat_controller.access.people import PEOPLE, Role
from mailboat_controller.api.identity import IdentityRequired, Person, identity_of
from mailboat_controller.console.proxy_sign_in import ProxySignInRefused
from mailboat_controller.console.session import SessionEnded
from mailboat_schemas.errors import MailboatError, NotPermitted


class LoginNeeded(IdentityRequired):
    """Nobody is logged in here, or not any more; the handler leads to the login page."""


def person_of_request(request: Request) -> Person | None:
    """Who is logged in, if anybody is; for the frame of a page."""
    found = identity_of(request)
    return found if isinstance(found, Person) else None


def require(*allowed: Role) -> Callable[[Request], Any]:
    """A dependency: the person, who must have one of these roles.

    Raises:
        LoginNeeded: nobody is logged in, or their session or token has ended.
        NotPermitted: somebody else.
    """

    def person(request: Request) -> Person:
        match identity_of(request):
            case None:
                raise LoginNeeded("Nobody is logged in.", next_step="log in.")
            case SessionEnded() as ended:
                raise LoginNeeded(ended.what, next_step=ended.next_step)
            case ProxySignInRefused() as refusal:
                raise refusal  # the login page would help nobody
            case NotPermitted() as refusal:
                raise LoginNeeded(refusal.what, next_step=refusal.next_step)
            case MailboatError() as trouble:
                raise trouble
            case Person() as found if found.role in allowed:
                return found
            case somebody:
                raise NotPermitted(
                    f"{somebody} may not do this; it takes one of: {', '.join(allowed)}.",
                    next_step="log in with a token of that role, or ask somebody who has one.",
                )

    return person


# Whoever may look: every role. Buttons for what somebody may not do are left out of their pages.
Viewer = Annotated[Person, Depends(require(*PEOPLE))]
Operator = Annotated[Person, Depends(require(Role.OPERATOR))]
Approver = Annotated[Person, Depends(require(Role.APPROVER))]
