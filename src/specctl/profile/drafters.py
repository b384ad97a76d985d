"""The settings of each method: what a profile's `drafter:` block may hold."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, PydanticKnownError

_MOST = 64


def _count_or_auto(value: Any) -> Any:
    # By hand, since pydantic reports a union's mistakes once for each of its types.
    if value == "auto":
        return value
    if type(value) is not int:
        raise PydanticCustomError("count_or_auto", "must be a whole number or `auto`")
    if value < 1:
        raise PydanticKnownError("greater_than_equal", {"ge": 1})
    if value > _MOST:
        raise PydanticKnownError("less_than_equal", {"le": _MOST})
    return value


DraftTokens = Annotated[
    Annotated[int, Field(ge=1, le=_MOST)] | Literal["auto"], BeforeValidator(_count_or_auto)
]
"""A number, or `auto`: each round the one that pays (`decode/length.py`)."""


class Part(BaseModel):
    # Strict: `yes`, `010` and quoted numbers are refused instead of guessed at.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True
    )


class Method(Part):
    """What every method's settings have. `uses_draft`: it needs a model besides the target; `takes_draft`: it uses
    one where there is one; `drafts_itself`: it drafts with a copy of the target, unless it has taken a draft.
    `auto_most`: the most tokens `draft_tokens: auto` drafts."""

    uses_draft: ClassVar[bool] = False
    takes_draft: ClassVar[bool] = False
    drafts_itself: ClassVar[bool] = False
    auto_most: ClassVar[int] = 12

    @property
    def most(self) -> int:
        """Most tokens drafted a round; 0 for plain decoding."""
        wish = getattr(self, "draft_tokens", 0)
        return self.auto_most if wish == "auto" else int(wish)

    @property
    def weighs_costs(self) -> bool:
        """Whether what a forward costs here decides how much is drafted."""
        return getattr(self, "draft_tokens", 0) == "auto"


class NoneParams(Method):
    """Plain decoding: one token a round, nothing drafted."""

    method: Literal["none"]


class DraftModelParams(Method):
    """A small model of the same family drafts; needs a pair with a draft, or `draft`."""

    uses_draft: ClassVar[bool] = True
    takes_draft: ClassVar[bool] = True
    method: Literal["draft-model"]
    draft_tokens: DraftTokens = Field(
        default=5, description="most tokens drafted a round; `auto`: as many as pay"
    )
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop once the draft model finds its whole draft less likely than this to be right",
    )


class SelfParams(Method):
    """The target's own weights in fewer bits draft; needs no second model."""

    drafts_itself: ClassVar[bool] = True
    method: Literal["self"]
    draft_tokens: DraftTokens = Field(
        default=5, description="most tokens drafted a round; `auto`: as many as pay"
    )
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop once the draft finds all it has said less likely than this to be right",
    )


class NgramParams(Method):
    """Looks the last few tokens up in the prompt and the answer so far; needs no second model."""

    auto_most: ClassVar[int] = 24
    method: Literal["ngram"]
    draft_tokens: DraftTokens = Field(
        default=24, description="most tokens drafted a round; `auto`: as many as pay"
    )
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
    copy_: Literal["int8", "int4"] | None = Field(
        default=None,
        alias="copy",
        description="draft with a copy of the first layers, and the adapter, in so many bits; null: with the "
        "target's own layers, which then run once only",
    )
    rests: bool = Field(
        default=True,
        description="leave a row alone for some rounds when its drafts cost more than they bring",
    )

    @property
    def weighs_costs(self) -> bool:
        return self.rests


Threshold = Annotated[float, Field(ge=0, le=1.01)]
Thresholds = Annotated[list[Threshold], Field(min_length=1, max_length=64)]


class S2DParams(Method):
    """One small model that can answer after several depths drafts; it goes deeper for tokens it is unsure of.

    It is cut from the draft model of the pair where there is one, else from the target.
    """

    takes_draft: ClassVar[bool] = True
    drafts_itself: ClassVar[bool] = True
    method: Literal["s2d"]
    weights: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="folder of `specctl train s2d`; null: the one shipped",
    )
    draft_tokens: int = Field(default=5, ge=1, le=64, description="most tokens drafted a round")
    thresholds: Thresholds | None = Field(
        default=None,
        description="one a depth: go deeper unless the best token is likelier; null: those of the weights",
    )
    targets: dict[str, Thresholds] = Field(
        default={}, description="thresholds by the target's name, instead of `thresholds`"
    )
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop drafting after a token the draft finds less likely than this",
    )
    rests: bool = Field(
        default=True, description="leave a row alone for some rounds when its drafts are not kept"
    )


class AutoParams(Method):
    """Chooses each round how much to draft, and whether by lookup, by a model, or not at all.

    The model is the pair's draft or the target's own weights; in 4 bits unless `draft` says otherwise.
    """

    takes_draft: ClassVar[bool] = True
    drafts_itself: ClassVar[bool] = True
    method: Literal["auto"]
    draft_tokens: int = Field(default=12, ge=1, le=64, description="most tokens drafted a round")
    model: Literal["draft", "self"] | None = Field(
        default=None,
        description="the draft model, or the target's own weights, which need not read the prompt; null: the draft "
        "model if it is chosen by `draft` or has at most a quarter of the target's bytes",
    )

    @property
    def weighs_costs(self) -> bool:
        return True


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
    trust: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="weight of what the target says half-way beside the draft's own second choices; 0: it is not "
        "asked; 1: it alone",
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
    NoneParams
    | DraftModelParams
    | SelfParams
    | NgramParams
    | KangarooParams
    | S2DParams
    | MirrorParams
    | AutoParams,
    Field(discriminator="method"),
]
