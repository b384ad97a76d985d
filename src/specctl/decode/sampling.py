"""From logits to the law a token is drawn from: one definition, for target and drafts, plain and speculative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specctl.decode.noise import Draws, KeyedDraws, Place, Stream

_HEAD = 2048
"""Most top-p sets are within this many tokens; sorting a whole vocabulary is slow on a CPU."""

_COLDEST = 1e-30
"""Lower temperatures give the same law, but are 0 or subnormal in float32."""


@dataclass(frozen=True, slots=True)
class Law:
    """Repetition penalty, temperature, top-k, top-p, min-p, in this order (as in transformers)."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def scores(
        self, logits: Tensor, histories: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]
    ) -> Tensor:
        """Logits `[n, q, vocab]` after the repetition penalty, at least in float32.

        Slot i of row b is judged by what stands before it: `histories[b]` and `drafts[b][:i]`.
        """
        scores = logits if logits.dtype == torch.float64 else logits.float()
        if self.repetition_penalty == 1:
            return scores
        seen = torch.zeros_like(scores, dtype=torch.bool)
        for row, (history, draft) in enumerate(zip(histories, drafts, strict=True)):
            seen[row, :, torch.tensor(history, device=logits.device)] = True
            for slot, token in enumerate(draft[: scores.shape[1] - 1]):
                seen[row, slot + 1 :, token] = True
        penalised = torch.where(
            scores > 0, scores / self.repetition_penalty, scores * self.repetition_penalty
        )
        return torch.where(seen, penalised, scores)

    def probabilities(self, scores: Tensor) -> Tensor:
        """The law itself, `[..., vocab]`, each row summing to 1. Only at temperature > 0."""
        # The best score first: then no temperature, however low, makes infinities of the others.
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / max(self.temperature, _COLDEST)
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            smallest = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < smallest, float("-inf"))
        probs = scores.softmax(dim=-1)
        if self.top_p is not None and self.top_p < 1:
            probs = _renormalised(probs, probs >= _nucleus_border(probs, self.top_p))
        if self.min_p is not None:
            probs = _renormalised(probs, probs >= self.min_p * probs.amax(dim=-1, keepdim=True))
        return probs


@dataclass(frozen=True, slots=True)
class Sampler:
    """How tokens are drawn in one run. `coupled` drafts share the target's noise."""

    law: Law
    draws: Draws
    coupled: bool = False

    @classmethod
    def keyed(cls, law: Law, *, coupled: bool = False) -> Sampler:
        return cls(law, KeyedDraws(), coupled)

    def draft_tokens(self, scores: Tensor, at: Sequence[Place]) -> tuple[Tensor, Tensor | None]:
        """One drafted token a row from `scores` `[n, vocab]`: tokens `[n]` and the law q they came from.

        q is None for greedy drafts: a token that was not drawn has a one-hot law.
        """
        if self.law.greedy:
            return scores.argmax(dim=-1), None
        q = self.law.probabilities(scores)
        return self.draws.sample(q, at, Stream.TARGET if self.coupled else Stream.DRAFT), q


def _renormalised(probs: Tensor, kept: Tensor) -> Tensor:
    probs = probs * kept
    return probs / probs.sum(dim=-1, keepdim=True)


def _nucleus_border(probs: Tensor, top_p: float) -> Tensor:
    """The smallest probability in the top-p set, `[..., 1]`: tokens tied with it are all kept."""
    head = probs.topk(min(_HEAD, probs.shape[-1]), dim=-1).values
    if bool((head.sum(dim=-1) < top_p).any()):
        head = probs.sort(dim=-1, descending=True).values
    before = head.cumsum(dim=-1) - head
    last = (before < top_p).sum(dim=-1, keepdim=True) - 1
    return head.gather(-1, last)
