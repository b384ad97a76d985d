"""How likely drafted tokens were, for whoever wants to see it: a pass over the logits, so only when asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Row, Scored
from specctl.decode.sampling import Sampler

Chances = list[tuple[float, ...]]
"""A probability for each drafted token of each row."""


def of_target(scored: Scored, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Chances:
    """p of each drafted token: of the law in force, or of a softmax at temperature 1 where decoding is greedy."""
    law = sampler.law
    scores = law.scores(scored.logits, [row.ids for row in rows], draft.tokens)
    return _picked(scores.softmax(dim=-1) if law.greedy else law.probabilities(scores), draft)


def of_drafter(draft: Draft) -> Chances:
    """q of each drafted token: of the law it was drawn from, else the drafter's confidence, if it has either."""
    if draft.q is not None:
        return _picked(draft.q, draft)
    if draft.confidence is not None:
        return [tuple(row) for row in draft.confidence]
    return [() for _ in draft.tokens]


def _picked(probs: Tensor, draft: Draft) -> Chances:
    """`probs` `[n, >= k, vocab]` at the drafted tokens."""
    k = draft.longest
    if k == 0:
        return [() for _ in draft.tokens]
    x = torch.tensor(draft.padded(k), device=probs.device)
    found = probs[:, :k].gather(2, x[:, :, None])[:, :, 0].tolist()
    return [tuple(row[: len(tokens)]) for row, tokens in zip(found, draft.tokens, strict=True)]
