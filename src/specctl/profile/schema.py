"""A profile as a value: every field, its limits and what it means."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from specctl.profile.drafters import Drafter, NgramParams, Part

_STREAMING = ("mirror", "draft-model")
_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,2})?")


class Sampling(Part):
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


StopString = Annotated[str, Field(min_length=1, max_length=256)]
Spec = Annotated[str, Field(min_length=1, max_length=4096)]


class DraftSource(Part):
    """The model that drafts. In a file, a lone MODEL stands for `{model: MODEL}`."""

    model: Spec | None = Field(default=None, description="like `target`; null: the pair's own draft")
    quantize: Literal["int8", "int4"] | None = Field(
        default=None,
        description="the draft's weights in fewer bits; null: as loaded, for method `self` int4",
    )
    trim: Spec | None = Field(
        default=None, description="folder of `specctl trim`: draft with the kept part of the vocabulary only"
    )
    streams: Spec | None = Field(
        default=None,
        description="folder of `specctl train streams`, or `shipped`: draft several tokens a forward",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _lone_model(cls, value: Any, handler: ModelWrapValidatorHandler[DraftSource]) -> DraftSource:
        return handler({"model": value} if isinstance(value, str) else value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 4096}, handler(core)]}


class Profile(Part):
    """Everything a run needs besides the prompt."""

    name: SkipJsonSchema[str] = ""  # from the file name; never in the file
    schema_version: Literal[1] = Field(alias="schema", description="version of this format")
    about: str = Field(max_length=200, description="one line for `specctl profiles list`")
    pair: Spec | None = Field(default=None, description="a pair of `specctl pull`, such as smollm2-135m")
    target: Spec | None = Field(
        default=None,
        description="instead of a pair: OWNER/REPO, a folder or a .gguf file of the model that decides",
    )
    draft: DraftSource | None = Field(
        default=None, description="the draft model, for methods that use one: the same, or a block"
    )
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

    probabilities: bool = Field(
        default=False,
        description="events also say how likely each drafted token was (p and q); costs some time",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise PydanticCustomError("device", "must be auto, cpu, mps, cuda, cuda:N, xpu or xpu:N")
        return device

    @property
    def quantize(self) -> Literal["int8", "int4"] | None:
        """The scheme of the draft's weights, the method's default included."""
        wish = self.draft.quantize if self.draft else None
        return wish or ("int4" if self.drafter.drafts_itself else None)

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
    if drafter.uses_draft:
        if profile.pair is None and (profile.draft is None or profile.draft.model is None):
            found.append((("draft",), f"is missing; method `{drafter.method}` needs a draft model"))
    elif drafter.drafts_itself and not drafter.takes_draft:
        if profile.draft is not None and profile.draft.model is not None:
            found.append((("draft", "model"), f"is of no use to method `{drafter.method}`"))
    elif profile.draft is not None and not drafter.takes_draft:
        found.append((("draft",), f"is of no use to method `{drafter.method}`"))
    if profile.draft is not None and profile.draft.streams and drafter.method not in _STREAMING:
        found.append((("draft", "streams"), f"is of no use to method `{drafter.method}`"))
    if drafter.method == "s2d" and profile.draft is not None and profile.draft.trim is not None:
        found.append(
            (("draft", "trim"), "is of no use to method `s2d`: its vocabulary is chosen in training")
        )
    if isinstance(drafter, NgramParams) and drafter.min_ngram > drafter.max_ngram:
        found.append((("drafter", "min_ngram"), f"must be at most max_ngram ({drafter.max_ngram})"))
    return found


def effective(profile: Profile) -> dict[str, Any]:
    """Every field with its value, as a file would hold it."""
    return profile.model_dump(by_alias=True, exclude={"name"})


def schema_text() -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"
