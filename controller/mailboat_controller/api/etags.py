"""Answers with a strong ETag: the content's own sha256, so equal tags mean equal bytes."""

from typing import Any

from fastapi import Request, Response

MSGPACK = "application/vnd.msgpack"
JSON = "application/json"


def described(media_type: str) -> dict[int | str, dict[str, Any]]:
    """For the description of a route that answers with bytes as they are."""
    return {
        200: {"description": "The bytes.", "content": content_of(media_type)},
        304: {"description": "The caller has them."},
    }


def content_of(media_type: str) -> dict[str, Any]:
    schema = {} if media_type == JSON else {"type": "string", "format": "binary"}
    return {media_type: {"schema": schema}}


def answer(
    request: Request, content: bytes, digest: str, *, media_type: str, cache: str = "no-cache"
) -> Response:
    """The bytes, or 304 when the caller has them."""
    headers = {"ETag": quoted(digest), "Cache-Control": cache}
    if matches(request, digest):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def matches(request: Request, digest: str) -> bool:
    """Whether If-None-Match names this content (RFC 9110, section 13.1.2: weak comparison)."""
    wanted = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
    return "*" in tags or quoted(digest) in tags


def quoted(digest: str) -> str:
    return f'"{digest}"'
