"""The objective of streams: each learns the draft's own law one token further on.

Teacher-forced on answers: a stream is shown the answer's tokens up to its own, and its law is compared with the one
the draft has there. The draft is frozen, and only its final states are needed. Cross-entropy with the whole law and
not with the answer's one token, as for Kangaroo's adapter: laws say more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from specctl.models.lm import LM
from specctl.models.streams import Cells, Shape, read_off
from specctl.training.kangaroo import CrossEntropy
from specctl.training.loop import Figures, Settings
from specctl.training.shards import Sample, Shards

SETTINGS = Settings(steps=400, batch=16, learning_rate=0.01, warmup=20, optimiser="muon", patience=20)

_MEASURED = 64
"""Held-out samples that are measured, at most: an evaluation should be short beside the steps between two."""

_ROOM = 1_500_000_000
"""Bytes for what is known about the draft's laws from one epoch to the next."""


class Streams:
    """Cells in training, in at least float32. `by_stream` are the figures of the last `measure`."""

    def __init__(self, lm: LM, shape: Shape, kept: Tensor | None, shards: Shards) -> None:
        self._wide = torch.promote_types(lm.dtype, torch.float32)
        self.cells = Cells(shape).to(lm.device, self._wide)
        self.module: nn.Module = self.cells
        self.by_stream: list[Figures] = []
        inner: Any = lm.module
        head = cast(Tensor, inner.get_output_embeddings().weight).detach()
        self._head = head if kept is None else head[kept.to(head.device)]
        self._embeddings = cast(Tensor, inner.get_input_embeddings().weight).detach()
        self._lm, self._shards, self._shape = lm, shards, shape
        self._scale = float(getattr(lm.config, "logits_scaling", None) or 1)
        self._capped = getattr(lm.config, "final_logit_softcapping", None) is not None
        self._centres: dict[int, Tensor] = {}
        self._room = _ROOM

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        some = [self._shards.sample(number, []) for number in samples]
        losses, positions = [], 0
        centres = [] if self._capped else [self._centre(n, one) for n, one in zip(samples, some, strict=True)]
        for stream, states in enumerate(self._states(some), start=1):
            if self._capped:  # no linear read-out: the short way does not hold
                laws = torch.cat([self._law(one)[stream:] for one in some])
                losses.append(cross_entropy(read_off(states, self._head, self._lm.config), laws))
            else:
                wanted = torch.cat([one[stream:] for one in centres])
                losses.append(CrossEntropy.apply(states, wanted, self._head, self._scale))  # type: ignore[no-untyped-call]
            positions += len(states)
        return torch.stack(losses).mean(), positions

    def measure(self, samples: Sequence[int]) -> Figures:
        """Means over the streams. The law compared with is the draft's own, told the same tokens."""
        sums = [[0.0, 0.0, 0.0, 0.0] for _ in range(self._shape.count)]
        for number in samples[:_MEASURED]:
            one = self._shards.sample(number, [])
            laws = self._law(one)
            for stream, states in enumerate(self._states([one]), start=1):
                p, logits = laws[stream:], read_off(states, self._head, self._lm.config)
                total = sums[stream - 1]
                total[0] += float((p.argmax(-1) == logits.argmax(-1)).sum())
                total[1] += float(torch.minimum(p, logits.softmax(-1)).sum())
                total[2] -= float((p * logits.log_softmax(-1)).sum())
                total[3] += len(states)
        self.by_stream = [Figures(*(value / max(n, 1) for value in values)) for *values, n in sums]
        means = zip(*([one.top1, one.acceptance, one.loss] for one in self.by_stream), strict=True)
        return Figures(*(sum(values) / len(values) for values in means))

    def _states(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        """For each stream its states `[positions, H]` behind every place of an answer it can start from."""
        places = [len(one.last) - one.answer for one in samples]
        states = [one.last[one.answer :].to(self._lm.device, self._wide) for one in samples]
        for stream in range(self._shape.count):
            left = [max(n - stream - 1, 0) for n in places]
            ids = torch.cat(
                [one.ids[one.answer + stream + 1 :][:n] for one, n in zip(samples, left, strict=True)]
            )
            before = torch.cat([one[:n] for one, n in zip(states, left, strict=True)])
            made = self.cells(stream, before, self._embeddings[ids.to(self._lm.device)].to(self._wide))
            yield made
            states = list(made.split(left))

    @torch.no_grad()
    def _law(self, sample: Sample) -> Tensor:
        """The draft's laws `[positions, head]` where tokens of the answer are predicted."""
        states = sample.last[sample.answer :].to(self._lm.device)
        return read_off(states, self._head, self._lm.config).softmax(-1)

    def _centre(self, number: int, sample: Sample) -> Tensor:
        """The means of the head's rows under those laws, `[positions, H]`: all the loss needs of them."""
        if number not in self._centres:
            centre = self._law(sample).to(self._head.dtype) @ self._head
            self._room -= centre.nbytes
            if self._room < 0:
                return centre
            self._centres[number] = centre
        return self._centres[number]
