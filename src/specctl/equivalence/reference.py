"""The reference decoder: one token, one forward, one choice. All it shares with the loop under test is the
model's forward, the definition of the law and `finish`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specctl.decode.draft import Request
from specctl.decode.finish import Limits, finish
from specctl.decode.loop import Rules
from specctl.decode.noise import Place, Stream
from specctl.equivalence.sight import Sight, look
from specctl.models.cache import SlotCache
from specctl.models.lm import LM, PREFILL_CHUNK


@dataclass(frozen=True, slots=True)
class Answer:
    """What plain decoding says: its token at each position and what it saw there; `cache` is its own."""

    tokens: list[int]
    sights: list[Sight]
    reason: str | None
    cache: SlotCache


def decode_plainly(lm: LM, request: Request, rules: Rules, *, follow: Sequence[int] | None = None) -> Answer:
    """Decode one request. With `follow` the reference makes its own choice at each position, then goes on behind
    that token instead: so it judges every token of a sequence, those after a divergence too.
    """
    ids = list(request.prompt)
    cache = _prefilled(lm, ids, len(ids) + request.max_new_tokens)
    limits = Limits(
        rules.eos, request.max_new_tokens, rules.context_length - len(request.prompt), request.stop
    )
    answer = Answer([], [], None, cache)
    reason = None
    while reason is None and (follow is None or len(answer.tokens) < len(follow)):
        logits = lm.forward(cache, [ids[-1:]], range(1))[0, 0]
        cache.lengths[0] += 1
        scores = rules.sampler.law.scores(logits[None, None], [ids], [[]])[0, 0]
        token = _choose(scores, Place(request.seed, len(ids)), rules)
        generated = ids[len(request.prompt) :]
        answer.tokens.append(token)
        answer.sights.append(look(logits, scores))
        ids.append(token if follow is None else follow[len(generated)])
        if follow is None:
            reason = finish(generated, ids[-1:], limits, rules.render).reason
    return Answer(answer.tokens, answer.sights, reason, cache)


def _prefilled(lm: LM, prompt: Sequence[int], capacity: int) -> SlotCache:
    """A cache with all of the prompt but its last token, in chunks as long as the loop's: equal shapes."""
    cache = lm.new_cache()
    cache.reserve(1, capacity + lm.columns(1, 1))
    cache.admit()
    for start in range(0, len(prompt) - 1, PREFILL_CHUNK):
        chunk = prompt[start : min(start + PREFILL_CHUNK, len(prompt) - 1)]
        lm.forward(cache, [chunk], range(1))
        cache.lengths[0] += len(chunk)
    return cache


def _choose(scores: Tensor, at: Place, rules: Rules) -> int:
    """The best token, the lowest id among equals; above temperature 0 the keyed draw from the law."""
    law = rules.sampler.law
    if law.greedy:
        return int((scores == scores.max()).nonzero()[0])
    return int(rules.sampler.draws.sample(law.probabilities(scores[None]), [at], Stream.TARGET))
