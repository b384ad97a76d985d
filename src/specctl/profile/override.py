"""A profile with some of its values replaced: by what was typed, or by what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from specctl.errors import RequestError
from specctl.profile.problems import explain
from specctl.profile.schema import Profile, effective


def merge(profile: Profile, overrides: dict[str, Any]) -> Profile:
    """`profile` with what was typed: keys are `max_new_tokens`, `sampling.top_k`, `drafter.draft_tokens` ...

    A typed pair or target replaces the profile's models; a typed draft, a MODEL, chooses method `draft-model`.
    Raises RequestError that speaks of options (`--top-k`), since the file is not at fault.
    """
    if not overrides:
        return profile
    if "pair" in overrides and "target" in overrides:
        raise RequestError("`--pair` and `--target` exclude each other", hint="give one of them")
    data = effective(profile)
    # How a draft is stored suits any model; which model it is does not.
    quantize = profile.draft.quantize if profile.draft else None
    if "pair" in overrides or "target" in overrides:
        data |= {"pair": None, "target": None, "draft": {"quantize": quantize} if quantize else None}
    if "draft" in overrides and not profile.drafter.takes_draft:
        data["drafter"] = {"method": "draft-model"}
    if "drafter.draft_tokens" in overrides and data["drafter"]["method"] == "none":
        raise RequestError("`--draft-tokens` is of no use to method `none`", hint="try `--profile ngram`")
    for key, value in overrides.items():
        *outer, last = key.split(".")
        part = data
        for step in outer:
            part = part[step]
        part[last] = {"model": value, "quantize": quantize} if key == "draft" else value
    try:
        return Profile.model_validate({**data, "name": profile.name})
    except ValidationError as error:
        said = [f"{_option(where)} {what}" for where, what in explain(error, Profile)]
        raise RequestError("; ".join(said), hint=f"on top of profile `{profile.name}`") from None


def recorded(fields: dict[str, Any], name: str) -> Profile:
    """The inverse of `effective`, for fields that were written to a file. Raises RequestError."""
    try:
        return Profile.model_validate({**fields, "name": name})
    except ValidationError as error:
        said = "; ".join(
            f"`{where[-1] if where else name}` {what}" for where, what in explain(error, Profile)
        )
        raise RequestError(f"the recorded profile cannot be used: {said}") from None


def _option(where: tuple[str | int, ...]) -> str:
    names = [step for step in where if isinstance(step, str)]
    return f"`--{names[-1].replace('_', '-')}`" if names else "the request"


def origins(base: Profile, merged: Profile, typed: Iterable[str]) -> Iterator[tuple[str, Any, str]]:
    """Yields `(field, value, origin)`; the origin is `typed`, `profile NAME` or `default`."""
    said = base.model_dump(by_alias=True, exclude={"name"}, exclude_unset=True)
    for field, value in effective(merged).items():
        if not isinstance(value, dict):
            yield field, value, _origin(field, field in said, base, typed)
            continue
        inner = said.get(field, {})
        for key, entry in value.items():
            yield f"{field}.{key}", entry, _origin(f"{field}.{key}", key in inner, base, typed)


def _origin(field: str, said: bool, base: Profile, typed: Iterable[str]) -> str:
    if field in typed:
        return "typed"
    return f"profile {base.name}" if said else "default"
