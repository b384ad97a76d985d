"""What a decoder saw at one position: a digest of its logits, and the scores of the best tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_TOP = 32


@dataclass(frozen=True, slots=True)
class Sight:
    """`digest` is of the logits' bytes, `best` maps the likeliest tokens to their scores, best first."""

    digest: bytes
    best: dict[int, float]

    @property
    def margin(self) -> float:
        """Score of the best token minus score of the second."""
        first, second, *_ = [*self.best.values(), float("-inf"), float("-inf")]
        return first - second

    def gap(self, one: int, other: int) -> float | None:
        """Score of `one` minus score of `other`; None if either is not among the best."""
        if one not in self.best or other not in self.best:
            return None
        return self.best[one] - self.best[other]


def look(logits: Tensor, scores: Tensor) -> Sight:
    """Logits `[vocab]` of a forward, and what the law made of them, `[vocab]`."""
    raw = logits.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    values, tokens = scores.topk(min(_TOP, scores.shape[-1]))
    best = dict(zip(tokens.tolist(), values.tolist(), strict=True))
    return Sight(hashlib.blake2b(raw, digest_size=16).digest(), best)
