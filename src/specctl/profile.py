"""Profiles: which models, which drafter, which sampling. YAML in, a validated frozen value out.

`python -m specctl.profile FILE` writes the JSON Schema editors use (`profiles/profile.schema.json`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from specctl import yaml_file
from specctl.errors import ProfileError, RequestError
from specctl.profile_files import Found, find, list_profiles
from specctl.profile_problems import explain

__all__ = ["Found", "Profile", "check", "list_profiles", "load", "merge"]

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,2})?")


class _Part(BaseModel):
    # Strict: `yes`, `010` and quoted numbers are refused instead of guessed at.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Sampling(_Part):
    """How the target's own next token is drawn. Temperature 0 is greedy; the rest is then without effect,
    except the repetition penalty."""

    temperature: float = Field(
        default=0.0, ge=0, le=10, description="0 is greedy: always the likeliest token"
    )
    top_k: int | None = Field(default=None, ge=0, description="keep the k likeliest tokens; 0 or null: off")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="keep the smallest set with this much mass"
    )
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="drop tokens below this share of the likeliest one"
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, le=10, description="above 1 makes tokens already seen less likely; 1: off"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="the same seed and settings give the same text")

    @field_validator("top_k")
    @classmethod
    def _zero_is_off(cls, top_k: int | None) -> int | None:
        return top_k or None


class NoneParams(_Part):
    """Plain decoding: one token a round, nothing drafted."""

    method: Literal["none"]


class DraftModelParams(_Part):
    """A small model of the same family drafts; needs a pair with a draft, or `draft`."""

    method: Literal["draft-model"]
    draft_tokens: int = Field(default=5, ge=1, le=64, description="most tokens drafted a round")
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop drafting after a token the draft model finds less likely than this",
    )


class NgramParams(_Part):
    """Looks the last few tokens up in the prompt and the answer so far; needs no second model."""

    method: Literal["ngram"]
    draft_tokens: int = Field(default=8, ge=1, le=64, description="most tokens drafted a round")
    max_ngram: int = Field(default=4, ge=1, le=16, description="longest run of tokens looked up first")
    min_ngram: int = Field(
        default=2, ge=1, le=16, description="shortest run of tokens that counts as a match"
    )


Drafter = Annotated[NoneParams | DraftModelParams | NgramParams, Field(discriminator="method")]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Spec = Annotated[str, Field(min_length=1, max_length=4096)]


class Profile(_Part):
    """Everything a run needs besides the prompt."""

    name: SkipJsonSchema[str] = ""  # from the file name; never in the file
    schema_version: Literal[1] = Field(alias="schema", description="version of this format")
    about: str = Field(max_length=200, description="one line for `specctl profiles list`")
    pair: Spec | None = Field(default=None, description="a pair of `specctl pull`, such as smollm2-135m")
    target: Spec | None = Field(
        default=None,
        description="instead of a pair: OWNER/REPO, a folder or a .gguf file of the model that decides",
    )
    draft: Spec | None = Field(default=None, description="the same for the draft model of method draft-model")
    drafter: Drafter = Field(description="how tokens are drafted")
    accept: Literal["rejection", "coupled"] = Field(
        default="rejection",
        description="at temperature > 0: `rejection` accepts more, `coupled` makes the text depend on the "
        "seed alone, whatever the drafter",
    )
    sampling: Sampling = Sampling()
    numerics: Literal["invariant", "native"] = Field(
        default="invariant",
        description="`invariant`: the same bits whatever is drafted; `native`: the model as it comes",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = Field(
        default="auto", description="number format of weights and caches"
    )
    device: str = Field(default="auto", description="auto, cpu, mps, cuda, cuda:1, xpu ...")
    max_new_tokens: int = Field(
        default=256, ge=1, le=1_000_000, description="the answer ends here at the latest"
    )
    system: str | None = Field(
        default=None, max_length=100_000, description="system message put before the prompt"
    )
    stop: list[StopString] = Field(default=[], max_length=16, description="texts that end the answer")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise PydanticCustomError("device", "must be auto, cpu, mps, cuda, cuda:N, xpu or xpu:N")
        return device

    @model_validator(mode="after")
    def _parts_agree(self) -> Profile:
        problems = list(_disagreements(self))
        if problems:
            raise PydanticCustomError("disagreement", "parts disagree", {"problems": problems})
        return self


def _disagreements(profile: Profile) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    drafter = profile.drafter
    if profile.pair is None and profile.target is None:
        found.append((("pair",), "is missing; give `pair` or `target`"))
    if profile.pair is not None and profile.target is not None:
        found.append((("target",), "excludes `pair`; give one of them"))
    if isinstance(drafter, DraftModelParams):
        if profile.pair is None and profile.draft is None:
            found.append((("draft",), "is missing; method `draft-model` needs a draft model"))
    elif profile.draft is not None:
        found.append((("draft",), f"is of no use to method `{drafter.method}`"))
    if isinstance(drafter, NgramParams) and drafter.min_ngram > drafter.max_ngram:
        found.append((("drafter", "min_ngram"), f"must be at most max_ngram ({drafter.max_ngram})"))
    return found


def load(name_or_path: str) -> Profile:
    """Raises ProfileError that names every problem of the file with its line."""
    found = find(name_or_path)
    profile, problems = _read(found)
    if profile is None:
        raise ProfileError("; ".join(problems), hint="docs/profiles.md explains every field")
    return profile


def check(found: Found) -> list[str]:
    """Every problem of a profile as `file:line: path: what`; empty if it can be used."""
    return _read(found)[1]


def _read(found: Found) -> tuple[Profile | None, list[str]]:
    document = yaml_file.read(found.path)
    problems = list(document.problems)
    profile: Profile | None = None
    if not problems or document.value is not None:
        value = document.value
        if not isinstance(value, dict):
            problems.append(yaml_file.Problem(1, (), "must hold `key: value` lines"))
        elif "name" in value:
            line = document.line_of(("name",))
            problems.append(
                yaml_file.Problem(line, ("name",), "is not a known key; the file name is the name")
            )
        if isinstance(value, dict):
            fields = {key: entry for key, entry in value.items() if key != "name"}
            try:
                profile = Profile.model_validate({**fields, "name": found.name})
            except ValidationError as error:
                known = {problem.where for problem in problems}
                problems += [
                    yaml_file.Problem(document.line_of(where), where, what)
                    for where, what in explain(error, Profile)
                    if where not in known
                ]
    lines = [_line(found.path, problem) for problem in sorted(problems, key=lambda one: one.line)]
    return (None if lines else profile), lines


def _line(path: Path, problem: yaml_file.Problem) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.where).lstrip(
        "."
    )
    return f"{path}:{problem.line}: " + (f"{where[:200]}: " if where else "") + problem.what


def merge(profile: Profile, overrides: dict[str, Any]) -> Profile:
    """`profile` with what was typed: keys are `max_new_tokens`, `sampling.top_k`, `drafter.draft_tokens` ...

    A typed pair or target replaces the profile's models; a typed draft chooses method `draft-model`.
    Raises RequestError that speaks of options (`--top-k`), since the file is not at fault.
    """
    if not overrides:
        return profile
    if "pair" in overrides and "target" in overrides:
        raise RequestError("`--pair` and `--target` exclude each other", hint="give one of them")
    data = effective(profile)
    if "pair" in overrides or "target" in overrides:
        data |= {"pair": None, "target": None, "draft": None}
    if "draft" in overrides and not isinstance(profile.drafter, DraftModelParams):
        data["drafter"] = {"method": "draft-model"}
    if "drafter.draft_tokens" in overrides and data["drafter"]["method"] == "none":
        raise RequestError("`--draft-tokens` is of no use to method `none`", hint="try `--profile ngram`")
    for key, value in overrides.items():
        *outer, last = key.split(".")
        part = data
        for step in outer:
            part = part[step]
        part[last] = value
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


def effective(profile: Profile) -> dict[str, Any]:
    """Every field with its value, as a file would hold it."""
    return profile.model_dump(by_alias=True, exclude={"name"})


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


def schema_text() -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
