"""JSON as models carry it, read without surprises: no duplicate keys, no NaN, no bottomless nesting."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from specctl.errors import ModelFileError

MAX_BYTES = 1 << 20


def loads(text: bytes, where: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """A JSON object. Raises ModelFileError; duplicate keys let two readers see two different files."""
    if len(text) > max_bytes:
        raise ModelFileError(f"`{where}` is larger than any such file needs to be")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(items)
        if len(keys) != len(items):
            raise ValueError("a key is there twice")
        return keys

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        parsed = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:100].encode("unicode_escape").decode()
        raise ModelFileError(f"`{where}` is not valid JSON: {reason}") from None
    if not isinstance(parsed, dict):
        raise ModelFileError(f"`{where}` is not a JSON object")
    return parsed
