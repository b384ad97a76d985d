"""Acceptors: which drafted tokens the target keeps, and the token it adds.

Notation of the papers: p is the target's law, q the draft's, x the drafted tokens. All three are exact: greedy
output is plain decoding's, sampled output has the target's law. `coupled` gives plain sampling's very tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Row, Verdict
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Sampler

Acceptor = Callable[[Tensor, Draft, Sequence[Row], Sampler], Verdict]
"""Scores `[n, k + 1, vocab]` after `Law.scores`, the draft, its rows, the sampler."""


def greedy(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    """Keep drafted tokens while they are the target's best token; ties go to the lowest id."""
    return _keep_while_equal(scores.argmax(dim=-1), draft)


def coupled(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    """Draw the target's token at every slot and keep the draft while equal (arXiv:2408.07978).

    The noise is keyed by position, so the output is a function of the seed alone, whatever was drafted.
    """
    n, slots, vocab = scores.shape
    p = sampler.law.probabilities(scores).reshape(n * slots, vocab)
    places = [Place(row.request.seed, len(row.ids) + slot) for row in rows for slot in range(slots)]
    return _keep_while_equal(sampler.draws.sample(p, places, Stream.TARGET).view(n, slots), draft)


def rejection(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    """Accept x with probability min(1, p(x)/q(x)), else draw from max(0, p - q) (arXiv:2211.17192, alg. 1).

    A draft without q was not drawn: its law is one-hot, so x is accepted with p(x) and the residual is p
    without x. Using the draft's softmax for such a token would over-accept.
    """
    n, slots, _ = scores.shape
    k = slots - 1
    p = sampler.law.probabilities(scores)
    counts = draft.counts(scores.device)
    x = torch.tensor(draft.padded(k), device=scores.device).view(n, k)
    px = p[:, :k].gather(2, x[:, :, None])[:, :, 0]
    qx = torch.ones_like(px) if draft.q is None else draft.q.gather(2, x[:, :, None])[:, :, 0]
    # A token q gives nothing, or a q that is no number, was never drawn from it: not to be accepted.
    ratio = torch.where(qx > 0, px / qx, 0).clamp(max=1)
    places = [Place(row.request.seed, len(row.ids) + slot) for row in rows for slot in range(k)]
    coins = sampler.draws.accept(ratio.flatten(), places).view(n, k) if k else x.bool()
    accepted = _prefix_length(coins & _proposed(counts, k))

    row = torch.arange(n, device=scores.device)
    law = p[row, accepted]
    if k:
        slot = accepted.clamp(max=k - 1)
        q = torch.zeros_like(law) if draft.q is None else draft.q[row, slot]
        left = (law - q).clamp(min=0)
        if draft.q is None:
            left[row, x[row, slot]] = 0
        # Nothing left means p = q up to rounding: then any draw from p is right.
        usable = (accepted < counts) & (left.sum(dim=-1) > 0)
        law = torch.where(usable[:, None], left, law)
    return Verdict(accepted, _draw_bonus(law, accepted, counts, rows, sampler))


ACCEPTORS: dict[str, Acceptor] = {"greedy": greedy, "rejection": rejection, "coupled": coupled}


def _draw_bonus(
    law: Tensor, accepted: Tensor, counts: Tensor, rows: Sequence[Row], sampler: Sampler
) -> Tensor:
    """One token a row from `law` `[n, vocab]`; a rejected slot's draw is not the one plain sampling makes."""
    bonus = []
    for b, (n_accepted, n_drafted) in enumerate(zip(accepted.tolist(), counts.tolist(), strict=True)):
        place = Place(rows[b].request.seed, len(rows[b].ids) + n_accepted)
        stream = Stream.RESIDUAL if n_accepted < n_drafted else Stream.TARGET
        bonus.append(sampler.draws.sample(law[b : b + 1], [place], stream))
    return torch.cat(bonus)


def _keep_while_equal(tokens: Tensor, draft: Draft) -> Verdict:
    """`tokens` `[n, k + 1]`: what the target says at each slot, given that all drafts before are kept."""
    n, slots = tokens.shape
    x = torch.tensor(draft.padded(slots - 1), device=tokens.device).view(n, slots - 1)
    proposed = _proposed(draft.counts(tokens.device), slots - 1)
    accepted = _prefix_length((x == tokens[:, :-1]) & proposed)
    return Verdict(accepted, tokens.gather(1, accepted[:, None])[:, 0])


def _proposed(counts: Tensor, k: int) -> Tensor:
    return torch.arange(k, device=counts.device) < counts[:, None]


def _prefix_length(kept: Tensor) -> Tensor:
    """Length of the run of True each row begins with, `[n, k]` to `[n]`."""
    return kept.long().cumprod(dim=1).sum(dim=1)
