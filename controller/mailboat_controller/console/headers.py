"""What every answer of the console tells the browser: load nothing from elsewhere, run nothing that
stands in a page, show us in no frame, and keep nothing."""

from mailboat_controller.api.limits import App, Message, Receive, Send

# No 'unsafe-inline' and no nonce: scripts and styles are files of ours or they do not run. So a
# device called <script>… is a name even where a template forgot to escape it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# `same-origin`, not `no-referrer`: with that, browsers send `Origin: null` with our own forms.
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}
NO_STORE = (b"cache-control", b"no-store")


class SecurityHeaders:
    """ASGI middleware of the console."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = list(message["headers"])
                names = {name.lower() for name, _ in sent}
                more = [each for each in HEADERS.items() if each[0] not in names]
                if b"cache-control" not in names:
                    more.append(NO_STORE)
                message = {**message, "headers": [*sent, *more]}
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
