"""A person at the console, without a browser: cookies, forms, and headers as browsers send."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from running_api import Answer, RunningApi

PREFIX = "/console"


@dataclass
class Page:
    """An answer, read as HTML."""

    answer: Answer

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.answer.headers

    @property
    def html(self) -> str:
        return self.answer.content.decode()

    @property
    def text(self) -> str:
        """What a reader sees: without tags, one space for any."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.html)).split())

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.html)
        assert found is not None, "the page has no form of ours"
        return found[1]


@dataclass
class Browser:
    """Follows no redirect by itself. ``get`` and ``post`` take paths below /console."""

    api: RunningApi
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""
    by: str | None = None  # comes with this client certificate

    def log_in(self, name: str) -> "Browser":
        answer = self.post("/login", token=self.api.tokens[name])
        assert answer.status == 303, answer.text
        self.csrf = self.get("/").csrf
        return self

    def get(self, path: str, **headers: str) -> Page:
        return self._ask("GET", path, None, headers)

    def post(
        self, path: str, *, send_headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Page:
        """A form of one of our pages: with its token, from our own origin."""
        fields = {"csrf": self.csrf, **fields}
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": self.api.url,
            "Sec-Fetch-Site": "same-origin",
            **(send_headers or {}),
        }
        return self._ask("POST", path, urlencode(fields).encode(), headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Page:
        sent = {"Accept": "text/html", **headers}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        by = self.by if self.by in self.api.identities else None
        answer = self.api.ask(method, PREFIX + path, by=by, body=body, headers=sent)
        self._keep(answer)
        return Page(answer)

    def _keep(self, answer: Answer) -> None:
        for value in answer.all_headers.get("set-cookie", []):
            for name, morsel in SimpleCookie(value).items():
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
