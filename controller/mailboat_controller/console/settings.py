"""The console's settings: ``[console]`` in controller.toml."""

from pydantic import BaseModel, ConfigDict, Field

from mailboat_controller.access.people import Role


class ConsoleSettings(BaseModel):
    """How long people stay logged in, and whether a proxy may log them in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session_hours: float = Field(default=12, gt=0, le=168, description="then: log in again")
    idle_minutes: float = Field(
        default=60, gt=0, le=1440, description="without a request, a session ends after so long"
    )
    proxy: str = Field(
        default="",
        max_length=63,
        description="the dashboard credential of a proxy that signs people in (OpenID Connect); "
        "empty: none",
    )
    proxy_user_header: str = Field(default="X-Forwarded-Preferred-Username", max_length=64)
    proxy_groups_header: str = Field(default="X-Forwarded-Groups", max_length=64)
    proxy_roles: dict[str, Role] = Field(
        default={}, max_length=64, description="a group of the proxy's: the role it gives"
    )
    proxy_sign_out: str = Field(
        default="",
        max_length=200,
        pattern=r"^(/[A-Za-z0-9][A-Za-z0-9/_.?=&%-]*)?$",
        description="where the proxy signs people out, a path of its own such as "
        "`/oauth2/sign_out`; empty: whoever logs out is told that only the proxy can do it",
    )
    live_clients: int = Field(
        default=200, ge=0, le=2000, description="pages that are kept up to date at once"
    )
    live_clients_each: int = Field(
        default=20, ge=1, le=2000, description="of those, pages of one person"
    )
