"""A tiny draft with streams that are right now and then: trained on what its target says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from fakes import ask, noisy_lm, plain_tokens
from specctl.models.lm import LM
from specctl.models.streams import Cells, Shape, Streams
from specctl.training import capture
from specctl.training import streams as training
from specctl.training.conversations import Conversation
from specctl.training.shards import Sample

SHAPE = Shape(count=2, size=32, inner=32)
KEPT = torch.arange(0, 48, 2)


@dataclass
class Samples:
    """Stands in for shards."""

    samples: list[Sample]

    @property
    def lengths(self) -> list[int]:
        return [len(one.last) for one in self.samples]

    def sample(self, number: int, depths: Any) -> Sample:
        return self.samples[number]


def samples(lm: LM, texts: list[Conversation]) -> Any:
    """Plain tensors, unlike those a forward gives: they can be learnt from."""
    found = [capture.states_of(lm, one, []) for one in texts]
    return Samples([Sample(one.ids, one.answer, {}, one.last.clone()) for one in found if one is not None])


def said(n: int = 5, new: int = 24) -> list[Conversation]:
    """The target's own answers."""
    answers = plain_tokens(n=n, new=new)
    return [
        Conversation(i, one.prompt, answer)
        for i, (one, answer) in enumerate(zip(ask(n, new), answers, strict=True))
    ]


@cache
def streaming_lm(trimmed: bool = False) -> LM:
    """`noisy_lm` with two streams, over all tokens or the even ones."""
    lm, kept = noisy_lm(), KEPT if trimmed else None
    objective = training.Streams(lm, SHAPE, kept, samples(lm, said()))
    optimiser = torch.optim.Adam(objective.module.parameters(), lr=0.02)
    for _ in range(60):
        loss, _ = objective.loss(range(5))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    objective.module.requires_grad_(False)
    return LM(lm.module, "streaming", streams=Streams(lm, objective.cells.eval(), kept))


def random_cells(seed: int = 0) -> Cells:
    """Cells whose streams say something, if nothing sensible."""
    cells = Cells(SHAPE).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in cells.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return cells
