"""What pydantic found wrong with a profile, in the user's words: where, what, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Where = tuple[str | int, ...]

_SAY = {
    "missing": "is missing",
    "int_type": "must be a whole number (got {got})",
    "int_from_float": "must be a whole number (got {got})",
    "float_type": "must be a number (got {got})",
    "finite_number": "must be a finite number (got {got})",
    "string_type": "must be text; quote it (got {got})",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list (got {got})",
    "too_long": "must have at most {max_length} entries (got {actual_length})",
    "model_type": "must hold `key: value` lines (got {got})",
    "dict_type": "must hold `key: value` lines (got {got})",
    "model_attributes_type": "must hold `key: value` lines (got {got})",
    "greater_than": "must be more than {gt} (got {got})",
    "greater_than_equal": "must be at least {ge} (got {got})",
    "less_than": "must be less than {lt} (got {got})",
    "less_than_equal": "must be at most {le} (got {got})",
    "literal_error": "must be {expected} (got {got})",
    "count_or_auto": "must be a whole number or `auto` (got {got})",
    "union_tag_not_found": "`method` is missing; one of {methods}",
}


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Where, str]]:
    """Yields `(where, what)`; `where` is a path in the file, without pydantic's union tags."""
    drafters = _drafters(model)
    for detail in error.errors():
        where: Where = detail["loc"]
        tag = str(where[1]) if len(where) > 1 and where[0] == "drafter" else None
        if tag is not None:
            where = (where[0], *where[2:])
        context = detail.get("ctx", {})
        kind = detail["type"]
        if kind == "disagreement":
            yield from context["problems"]
        elif kind == "extra_forbidden":
            yield where, "is not a known key" + _near(str(where[-1]), _keys(model, where, drafters, tag))
        elif kind == "union_tag_invalid":
            methods = ", ".join(drafters)
            what = f"`{_short(context['tag'])}` is not a method{_near(context['tag'], drafters)}"
            yield (*where, "method"), f"{what} (known: {methods})"
        elif kind in _SAY:
            got = f"`{_short(detail['input'])}`"
            methods = ", ".join(drafters)
            what = _SAY[kind].format(got=got, methods=methods, **context)
            yield where, what.replace("'", "`") if kind == "literal_error" else what
        else:
            yield where, detail["msg"][:1].lower() + detail["msg"][1:]


def _keys(
    model: type[BaseModel], where: Where, drafters: dict[str, type[BaseModel]], tag: str | None
) -> Iterable[str]:
    holder = model
    if tag is not None:
        holder = drafters[tag]
    elif len(where) > 1:
        inner = model.model_fields[str(where[0])].annotation
        holder = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
    return [field.alias or name for name, field in holder.model_fields.items() if name != "name"]


def _drafters(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The drafters' parameter models by method name, read off the union."""
    union = get_args(model.model_fields["drafter"].annotation)
    return {get_args(one.model_fields["method"].annotation)[0]: one for one in union}


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
