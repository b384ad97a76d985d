"""A drafter of each registered method over the tiny pair."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from scenes import K, MakeDrafter, draft_lm, target_lm

from fakes import flat_costs
from specctl.decode.draft import Drafter, Parts, build_drafter
from specctl.decode.sampling import Sampler
from specctl.models.adapter import Adapter, Shape, readout
from specctl.models.costs import Costs
from specctl.models.lm import LM
from specctl.profile.drafters import Drafter as DrafterParams

COPY = "kangaroo with a copy"


@cache
def adapter_lm() -> LM:
    """The draft's last layer as an adapter, behind its first: that is the target's, in other weights."""
    return readout(draft_lm(), Adapter(draft_lm(), Shape(1, "layer")).double().eval())


def params(method: str) -> Any:
    """A method's defaults, its drafts cut to the length that toys have equal shapes with."""
    drafter: Any = TypeAdapter(DrafterParams).validate_python({"method": method.split()[0]})
    return drafter.model_copy(update={"draft_tokens": K} if hasattr(drafter, "draft_tokens") else {})


def drafting_lm(method: str) -> LM:
    if method in ("kangaroo", COPY):
        return replace(adapter_lm(), twin=method == COPY)
    return replace(draft_lm(), exits=((1, 0.5), (2, 0.0)) if method == "s2d" else ())


def maker(method: str, costs: Costs | None = None) -> MakeDrafter:
    def make(sampler: Sampler) -> Drafter:
        parts = Parts(target_lm(), drafting_lm(method), sampler, frozenset(), costs or flat_costs())
        return build_drafter(params(method), parts)

    return make
