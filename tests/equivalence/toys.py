"""Subjects made of tiny models: bf16, where tiny models compute the same bits in every shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch

from fakes import render, run, scripts, tiny_lm
from specctl.decode.accept import ACCEPTORS
from specctl.decode.draft import Drafter, Request
from specctl.decode.loop import Rules
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.equivalence.subject import Subject
from specctl.models.lm import LM


@cache
def toy_lm(kind: str = "llama", seed: int = 0) -> LM:
    lm = tiny_lm(kind, seed, dtype=torch.bfloat16)
    lm.row_floor = 2
    return lm


def subject(
    lm: LM,
    make: Callable[[Sampler], Drafter],
    *,
    eos: frozenset[int] = frozenset(),
    law: Law | None = None,
    accept: str = "greedy",
    target: Callable[[int, int], Target] | None = None,
) -> Subject:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    rules = Rules(ACCEPTORS[accept], sampler, eos, lm.context_length, render)
    make_target = target or (lambda slots, capacity: Target(lm, slots=slots, capacity=capacity))
    return Subject(lm, make_target, make, rules, "toy", "invariant")


def scripted(name: str, requests: Sequence[Request], k: int = 4, **changes: object) -> Subject:
    """A scripted drafter that knows what the target will say."""
    lm = toy_lm()
    plain, _, _ = run(lm, None, requests)
    return subject(lm, lambda sampler: scripts(plain, k)[name], **changes)  # type: ignore[arg-type]
