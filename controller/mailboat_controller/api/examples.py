"""Examples of what is asked and answered, made from the schemas by the names of their fields.

One table of words, so that every example speaks of the same small fleet; a contract test holds each
of them against its own schema.
"""

import json
from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 12  # of a schema that names itself
_DIGEST = "ab" * 32
_AT = "2026-05-04T03:02:01Z"

WORDS: Mapping[str, Any] = {
    "action": "rollout.halt",
    "actor": "operator:alice",
    "address": "10.0.0.7",
    "after": 0,
    "alias": "production",
    "api_url": "https://controller.example:8443",
    "apiVersion": "mailboat/v1",
    "arch": "x86_64",
    "asked_by": "operator:alice",
    "base_version": "1.3.0",
    "before": "1777863721000-17",
    "because": "3 of 10 devices failed their trial",
    "branch": "main",
    "broker_host": "broker.harbour.example",
    "by": "operator:alice",
    "cache_url": "https://cache.harbour.example:8444",
    "code": "",
    "commit": "0a1b2c3d",
    "content_key": "cd" * 16,
    "created_by": "local:root",
    "description": "Tells speech from noise.",
    "detail": "There is no device kiosk-17.",
    "device": "kiosk-17",
    "device_key": _DIGEST,
    "digest": _DIGEST,
    "disk_budget": "1GiB",
    "enrolment_number": 17,
    "file": "acl",
    "fingerprint": "abab abab abab abab",
    "fleet": "demo",
    "format": "zstd-patch",
    "hardware_class": "kiosk",
    "hardware_classes": ["kiosk"],
    "hash": _DIGEST,
    "hours": 24,
    "id": "0123456789abcdef",
    "key": "cd" * 32,
    "key_id": "cd" * 16,
    "keyid": _DIGEST,
    "kind": "hold",
    "labels": {"floor": "3"},
    "level": "class",
    "limit": 100,
    "memory_budget": "256MiB",
    "model": "vad",
    "mqtt_host": "broker.example",
    "name": "harbour",
    "next_step": "nothing.",
    "of": "vad@1.4.0",
    "operator_labels": {"owner": "port"},
    "order": "0123456789abcdef",
    "path": "model.onnx",
    "phase": "running",
    "plan": "vad-to-1-4",
    "presence_because": "it is connected",
    "policy": "connected",
    "previous_hash": "cd" * 32,
    "problem": "",
    "product": "mailboat",
    "reason": "storm at sea until Thursday",
    "registered": "vad",
    "release": "1.5.0",
    "repository": "https://git.example/fleet.git",
    "request": "0123456789abcdef",
    "retry_seconds": 5,
    "revoked": False,
    "role": "operator",
    "roles": {"release-vad": "eyJzaWduZWQiOiB7fX0="},
    "rollout": "vad-to-1-4",
    "selector": "class=kiosk,site=harbour",
    "serving": "1.3.0",
    "set": "production",
    "signature": "ab" * 32,
    "site": "harbour",
    "start": "02:00",
    "state": "waiting",
    "status": "ok",
    "subject": "vad-to-1-4",
    "target": "kiosk",
    "token": "told-once-and-kept-by-nobody-but-its-holder",
    "trace_id": "ab" * 16,
    "type": "rollout.halted",
    "types": [],
    "url": "https://alerts.example/mailboat",
    "verb": "pause",
    "version": "1.4.0",
    "what": "rollout.halt",
    "who": "controller",
}
_KINDS: Mapping[object, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
# For a field whose own words do not fit its schema here.
_FALLBACK: Mapping[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
}


def example_of(schema: Any, schemas: Mapping[str, Any], name: str = "", depth: int = 0) -> Any:
    """A value of a JSON schema.

    Args:
        schemas: what ``#/components/schemas/`` holds.
        name: of the field, which chooses the word.
    """
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return None
    for key in ("example", "const"):
        if key in schema:
            return schema[key]
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, name, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _first_fitting(schema[key], schemas, name, depth)
    if "allOf" in schema:
        return example_of(schema["allOf"][0], schemas, name, depth + 1)
    if "enum" in schema:
        return WORDS[name] if WORDS.get(name) in schema["enum"] else schema["enum"][0]
    match schema.get("type"):
        case "object":
            return _object(schema, schemas, name, depth)
        case "array":
            return _array(schema, schemas, name, depth)
        case _:
            return _plain(schema, name)


def _first_fitting(choices: list[Any], schemas: Mapping[str, Any], name: str, depth: int) -> Any:
    """That of what may be, before that it may not be."""
    there = [each for each in choices if each.get("type") != "null"] or choices
    word = WORDS.get(name)
    fits = (each for each in there if _is(word, each.get("type")))
    return example_of(next(fits, there[0]), schemas, name, depth + 1)


def _is(word: Any, kind: object) -> bool:
    # Python counts true and false among the numbers.
    return isinstance(word, _KINDS.get(kind, ())) and isinstance(word, bool) == (kind == "boolean")


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str, depth: int) -> Any:
    fields = schema.get("properties")
    if fields is None:
        word = WORDS.get(name)
        if isinstance(word, dict):
            return word
        return {}
    required = set(schema.get("required", ()))
    # All fields of an answer are required; of what is sent, those that a person has to give, and
    # those for which there is a word.
    wanted = (each for each in fields if each in required or _has_word(fields[each], each))
    return {each: example_of(fields[each], schemas, each, depth + 1) for each in wanted}


def _has_word(schema: Any, name: str) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string" and name in WORDS


def _array(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str, depth: int) -> Any:
    if "prefixItems" in schema:
        return [example_of(each, schemas, name, depth + 1) for each in schema["prefixItems"]]
    if "items" not in schema or schema.get("maxItems") == 0:
        return []
    if isinstance(WORDS.get(name), list):
        return WORDS[name]
    singular = name.removesuffix("s")
    one = example_of(schema["items"], schemas, singular, depth + 1)
    return [one] * max(1, schema.get("minItems", 1))


def _plain(schema: Mapping[str, Any], name: str) -> Any:
    kind = schema.get("type")
    if kind == "string" and schema.get("format") == "date-time":
        return _AT
    if kind == "string" and schema.get("format") == "binary":
        return json.dumps({"…": "the bytes themselves"})
    word = WORDS.get(name)
    if _is(word, kind):
        return word
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 3))
        return schema.get("default", min(low + 1, high))
    if kind == "string" and "default" in schema:
        return schema["default"]
    return _FALLBACK.get(str(kind))
