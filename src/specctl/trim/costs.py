"""What a size would cost and gain: measured seconds, replayed acceptance, and the arithmetic between them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from specctl.models.lm import LM
from specctl.models.numerics import filled_cache
from specctl.trim.calibration import Sample
from specctl.trim.source import Source

_CONTEXT = 256
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, medians: a drafter's step apart from its head, the head by size, the target's forward."""

    body: float
    head: dict[int, float]
    verify: float

    def a_round(self, size: int, draft_tokens: int) -> float:
        return draft_tokens * (self.body + self.head[size]) + self.verify


def measure(target: LM, drafts: dict[int, LM], draft_tokens: int, *, repeats: int = 7) -> Costs:
    """`drafts` by the size of their heads, all else being shared.

    Each head is timed right after a step of the smallest draft: on its own it would find its rows in the CPU's
    caches, where they never are while drafting.
    """
    smallest = drafts[min(drafts)]
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, smallest.row_floor, smallest.config.hidden_size, generator=generator)
    states = states.to(smallest.device, smallest.dtype)
    cache = filled_cache(smallest, [_CONTEXT], draft_tokens + smallest.row_floor)
    judged = filled_cache(target, [_CONTEXT], draft_tokens + 1 + target.row_floor)
    step: list[float] = []
    head: dict[int, list[float]] = {size: [] for size in drafts}
    verify: list[float] = []
    for _ in range(repeats + 1):
        for size, draft in drafts.items():
            step.append(_seconds(lambda: smallest.forward(cache, [[0]], range(1))))
            head[size].append(_seconds(partial(draft.module.get_submodule("lm_head"), states)))
        verify.append(_seconds(lambda: target.forward(judged, [[0] * (draft_tokens + 1)], range(1))))
    middle = {size: statistics.median(times[1:]) for size, times in head.items()}
    body = statistics.median(step[len(drafts) :]) - middle[min(drafts)]
    return Costs(body, middle, statistics.median(verify[1:]))


@torch.no_grad()
def _seconds(what: Callable[[], object]) -> float:
    begun = perf_counter()
    what()
    return perf_counter() - begun


def mbsu(length: float, draft: Source, target: Source, size: int, draft_tokens: int) -> float:
    """Memory-bound speed-up: mean acceptance length over (c * draft_tokens + 1), c the parameters a drafter's step
    reads over those of a target's. Arithmetic, not time.
    """
    read = draft.read_a_step - (draft.rows - size) * draft.width
    return length / (read / target.read_a_step * draft_tokens + 1)


def hits(draft: LM, sample: Sample, order: Tensor, sizes: Sequence[int]) -> Tensor:
    """Whether the draft's best kept token is the answer's, `[len(sizes), len(answer)]` bool, by teacher forcing.

    As long as drafts are accepted a drafter has read exactly the answer, so greedy acceptance can be replayed.
    `sizes` ascend; the kept sets are the beginnings of `order`.
    """
    answer = torch.tensor(sample.answer, device=draft.device)
    best = [_best(logits[:, order], order, sizes) for logits in read_along(draft, sample)]
    return torch.cat(best, dim=1) == answer


def read_along(draft: LM, sample: Sample) -> Iterator[Tensor]:
    """The draft's logits `[q, V]` at the places of the answer, in pieces.

    Without a prompt the first token of the answer stands for it, and has no logits.
    """
    prompt = sample.prompt or sample.answer[:1]
    answer = sample.answer if sample.prompt else sample.answer[1:]
    if not answer:
        return
    cache = draft.new_cache()
    cache.reserve(1, len(prompt) + len(answer) + draft.row_floor)
    row = cache.admit()
    draft.prefill(cache, row, prompt[:-1])
    fed = [prompt[-1], *answer[:-1]]
    for start in range(0, len(fed), _CHUNK):
        chunk = fed[start : start + _CHUNK]
        logits = draft.forward(cache, [chunk], range(row, row + 1))[0]
        cache.commit(row, len(chunk))
        yield logits


def _best(logits: Tensor, order: Tensor, sizes: Sequence[int]) -> Tensor:
    """The best id among the first `size` of `order` for each size, `[len(sizes), q]`; ties go to the lower id."""
    top = logits.new_full((len(logits),), float("-inf"))
    best = torch.full((len(logits),), int(order.max()) + 1, device=logits.device)
    found: list[Tensor] = []
    start = 0
    for size in sizes:
        if size > start:
            part, ids = logits[:, start:size], order[start:size]
            value = part.amax(dim=-1)
            lowest = torch.where(part == value[:, None], ids, len(order)).amin(dim=-1)
            better = (value > top) | ((value == top) & (lowest < best))
            best, top = torch.where(better, lowest, best), torch.maximum(value, top)
            start = size
        found.append(best)
    return torch.stack(found)


def acceptance_length(hits_of_answers: Iterable[Sequence[bool]], draft_tokens: int) -> float:
    """Mean acceptance length of greedy rounds over these answers, the target's own token included."""
    rounds = tokens = 0
    for right in hits_of_answers:
        at = 0
        while at < len(right):
            most = min(draft_tokens, len(right) - at - 1)
            accepted = 0
            while accepted < most and right[at + accepted]:
                accepted += 1
            at += accepted + 1
            rounds += 1
        tokens += len(right)
    return tokens / rounds if rounds else 1.0
