"""Mirror drafters over tiny models, and one that compares each draft made ahead with one made after the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fakes import Spy, noisy_lm, shared_lm
from specctl.decode.draft import Draft, Parts, Row
from specctl.decode.sampling import Law, Sampler
from specctl.drafters.mirror import Mirror
from specctl.events import Branched, Event, Verified
from specctl.mirror.worker import Worker
from specctl.models.lm import LM
from specctl.profile.drafters import MirrorParams

WARM = Law(temperature=1.0)
LAWS = [(Law(), "greedy"), (WARM, "coupled"), (WARM, "rejection")]
N_LAYERS = 4


def mirror(
    lm: LM | None = None,
    draft: LM | None = None,
    *,
    law: Law | None = None,
    accept: str = "greedy",
    eos: frozenset[int] = frozenset(),
    worker: Worker | None = None,
    **params: Any,
) -> Mirror:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    parts = Parts(lm or shared_lm(), draft or noisy_lm(), sampler, eos, worker=worker)
    return Mirror(MirrorParams(method="mirror", **params), parts)


class Compared(Spy):
    """Each draft that was made ahead is made again by a drafter without a past."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(mirror(**settings))
        self._settings = settings
        self.hits = self.wrong = 0

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        inner: Any = self.drafter
        ahead = [one is not None for one in inner._next]
        draft = super().draft(rows, budget)
        for slot, (row, most) in enumerate(zip(rows, budget, strict=True)):
            if ahead[slot]:
                fresh = self._fresh(row, most)
                self.hits += 1
                self.wrong += fresh.tokens[0] != draft.tokens[slot]
                if draft.q is not None and fresh.q is not None:
                    k = len(draft.tokens[slot])
                    self.wrong += not torch.allclose(fresh.q[0, :k], draft.q[slot, :k], atol=1e-9)
        return draft

    def _fresh(self, row: Row, most: int) -> Draft:
        drafter = mirror(**self._settings)
        alone = replace(row, ids=list(row.ids))
        drafter.begin(alone, {})
        return drafter.draft([alone], [most])


def rounds(events: Sequence[Event]) -> list[tuple[int, int, int, int]]:
    found = [event for event in events if isinstance(event, Verified)]
    return sorted((one.row, one.round, one.drafted, one.accepted) for one in found)


def hits(events: Sequence[Event]) -> list[bool]:
    return [one.hit for one in events if isinstance(one, Branched) and one.hit is not None]
