"""All the ways to draft for a pair, and how fast each would be: from traces and cost curves, none of them run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specctl.bench import predict
from specctl.bench.statistics import mean_over_kinds
from specctl.bench.trace import Trace
from specctl.models.costs import Costs
from specctl.profile.drafters import AutoParams, NgramParams
from specctl.profile.schema import Profile, effective
from specctl.session import Session

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
CONFIDENCES = (None, 0.3, 0.5, 0.65, 0.8)
LOOKUP_LENGTHS = (3, 6, 12, 24)
AUTO_LENGTHS = (8, 12, 16)


@dataclass(frozen=True, slots=True)
class Source:
    """Who may draft: the session's draft model, or nobody but lookup where it has none. `traces` by kind of prompt.

    The session's profile says which model, in how many bits, with which trimmed head.
    """

    name: str
    session: Session
    costs: Costs
    traces: Mapping[str, Sequence[Trace]]

    def acceptance(self) -> float | None:
        return predict.acceptance([one for some in self.traces.values() for one in some])


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of drafting: a profile whose name says what it is. `predicted`: its speedup over plain decoding."""

    source: Source
    profile: Profile
    predicted: float

    def session(self) -> Session:
        """What it is measured with; `auto` decides by the costs it was foretold with."""
        costs = self.source.costs if self.profile.drafter.method == "auto" else None
        return replace(self.source.session, profile=self.profile, costs=costs)


def foretell(sources: Sequence[Source]) -> list[Setting]:
    """Every setting of every source, the most promising first; of equals the shorter draft."""
    settings = [
        Setting(source, _profile(source, params), _speedup(source, params))
        for source in sources
        for params in grid(source.session)
    ]
    return sorted(settings, key=lambda one: -one.predicted)


def finalists(settings: Sequence[Setting], most: int) -> list[Setting]:
    """The best few worth running: at most two of one method of one source, so that a wrong curve misleads less."""
    seen: dict[tuple[str, str], int] = {}
    chosen = []
    for one in settings:
        key = one.source.name, one.profile.drafter.method
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 2 and one.predicted > 1:
            chosen.append(one)
    return chosen[:most]


def grid(session: Session) -> list[Any]:
    """The settings to look at: methods `draft-model` or `self`, and `auto`, for a draft model; else lookup."""
    own = session.profile.drafter
    if session.draft is None:
        return [
            NgramParams(method="ngram", draft_tokens=k, min_ngram=shortest)
            for k in LOOKUP_LENGTHS
            for shortest in (1, 2)
        ]
    drafting = [
        own.model_copy(update={"draft_tokens": k, "min_confidence": least})
        for k in LENGTHS
        for least in (CONFIDENCES if k > 1 else CONFIDENCES[:1])
    ]
    # `auto` takes its model in 4 bits unless told otherwise, so a draft as loaded cannot be asked of it.
    whose: Any = "self" if own.method == "self" else "draft"
    autos = [AutoParams(method="auto", draft_tokens=k, model=whose) for k in AUTO_LENGTHS]
    return [*drafting, *(autos if session.profile.quantize else [])]


def label(source: str, params: Any) -> str:
    """A setting in a few words: `draft int4, 4 tokens, 0.5 sure`."""
    if params.method == "ngram":
        return f"lookup, {params.draft_tokens} tokens, from {params.min_ngram} back"
    least = getattr(params, "min_confidence", None)
    name = f"auto with {source}" if params.method == "auto" else source
    return f"{name}, {params.draft_tokens} tokens" + (f", {least} sure" if least is not None else "")


def _speedup(source: Source, params: Any) -> float:
    return mean_over_kinds(
        {
            kind: [predict.speedup(source.session, params, one, source.costs) for one in traces]
            for kind, traces in source.traces.items()
        }
    )


def _profile(source: Source, params: Any) -> Profile:
    """`auto` decides by measured costs: with `coupled`, sampled text does not depend on them."""
    data = {**effective(source.session.profile), "drafter": params.model_dump()}
    if params.method == "auto":
        data["accept"] = "coupled"
    return Profile.model_validate({**data, "name": label(source.name, params)})
