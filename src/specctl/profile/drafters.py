"""The settings of each method: what a profile's `drafter:` block may hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    # Strict: `yes`, `010` and quoted numbers are refused instead of guessed at.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Method(Part):
    """What every method's settings have. `uses_draft`: it needs a model besides the target; `takes_draft`: it uses
    one where there is one; `drafts_itself`: it drafts with a copy of the target, unless it has taken a draft."""

    uses_draft: ClassVar[bool] = False
    takes_draft: ClassVar[bool] = False
    drafts_itself: ClassVar[bool] = False


class NoneParams(Method):
    """Plain decoding: one token a round, nothing drafted."""

    method: Literal["none"]


class DraftModelParams(Method):
    """A small model of the same family drafts; needs a pair with a draft, or `draft`."""

    uses_draft: ClassVar[bool] = True
    takes_draft: ClassVar[bool] = True
    method: Literal["draft-model"]
    draft_tokens: int = Field(default=5, ge=1, le=64, description="most tokens drafted a round")
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop drafting after a token the draft model finds less likely than this",
    )


class SelfParams(Method):
    """The target's own weights in fewer bits draft; needs no second model."""

    drafts_itself: ClassVar[bool] = True
    method: Literal["self"]
    draft_tokens: int = Field(default=5, ge=1, le=64, description="most tokens drafted a round")
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop drafting after a token the draft finds less likely than this",
    )


class NgramParams(Method):
    """Looks the last few tokens up in the prompt and the answer so far; needs no second model."""

    method: Literal["ngram"]
    draft_tokens: int = Field(default=24, ge=1, le=64, description="most tokens drafted a round")
    max_ngram: int = Field(default=6, ge=1, le=16, description="longest run of tokens looked up first")
    min_ngram: int = Field(
        default=1, ge=1, le=16, description="shortest run of tokens that counts as a match"
    )


class KangarooParams(Method):
    """The target's first layers and a small trained adapter draft; the other layers verify."""

    method: Literal["kangaroo"]
    adapter: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="folder of `specctl train`; null: the one shipped",
    )
    draft_tokens: int = Field(default=4, ge=1, le=64, description="most tokens drafted a round")
    min_confidence: float | None = Field(
        default=0.4,
        ge=0,
        le=1,
        description="stop drafting after a token the adapter finds less likely than this",
    )


class AutoParams(Method):
    """Chooses each round how much to draft, and whether by lookup, by a model, or not at all.

    The model is the pair's draft, or else the target's own weights; in 4 bits unless `draft` says otherwise.
    """

    takes_draft: ClassVar[bool] = True
    drafts_itself: ClassVar[bool] = True
    method: Literal["auto"]
    draft_tokens: int = Field(default=12, ge=1, le=64, description="most tokens drafted a round")


class MirrorParams(Method):
    """Drafts the next round while the target verifies this one, for the verdicts that are likely (Mirror-SD).

    The draft is the pair's, or else the target's own weights; in 4 bits unless `draft` says otherwise.
    """

    takes_draft: ClassVar[bool] = True
    drafts_itself: ClassVar[bool] = True
    method: Literal["mirror"]
    draft_tokens: int = Field(default=4, ge=1, le=64, description="most tokens drafted a round")
    exit: int | None = Field(
        default=None, ge=1, description="layers of the target before it is read out; null: half of them"
    )
    candidates: int = Field(
        default=4, ge=0, le=16, description="verdicts prepared for at each position; 0: plain draft-model"
    )
    branches: int = Field(default=8, ge=1, le=64, description="most verdicts prepared for in a round, a row")
    overlap: Literal["none", "thread", "worker"] = Field(
        default="none",
        description="where branches are drafted: `none` in turn, with modelled times; `thread` beside the target, "
        "for two devices; `worker` in a process of its own",
    )
    draft_device: str | None = Field(
        default=None, max_length=16, description="the draft's device; null: the target's"
    )
    draft_threads: int = Field(
        default=1, ge=1, le=64, description="the worker's threads; the target has the rest"
    )
    patience: float = Field(
        default=2.0, gt=0, le=600, description="seconds to wait for the worker before drafting in place"
    )


Drafter = Annotated[
    NoneParams | DraftModelParams | SelfParams | NgramParams | KangarooParams | AutoParams | MirrorParams,
    Field(discriminator="method"),
]
