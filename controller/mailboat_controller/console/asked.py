"""What the fields of a filter may hold: an empty field is none, a page has a number."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BeforeValidator

PAGES_MAX = 10_000

PageNumber = Annotated[int, Query(alias="page", ge=1, le=PAGES_MAX)]


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


# Beside the type of a parameter: a form sends every field, the empty ones too.
EmptyIsNone = BeforeValidator(_none_if_empty)
