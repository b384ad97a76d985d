"""The right engine never alarms, whatever is asked of it. `SPECCTL_TEST_LONG=1` makes it a thousand runs."""

from __future__ import annotations

import os
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from newer import small_chunks
from scenes import HOT, PENALTY, answers, greedy, law_verdict, prepare, subject

from fakes import ask, scripts
from specctl.decode.sampling import Law
from specctl.equivalence.report import Verdict
from specctl.equivalence.sampled import SampledLaw

LONG = bool(os.environ.get("SPECCTL_TEST_LONG"))
BLOCKS = 20 if LONG else 1
RUNS = 50 if LONG else 25


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_alarm_on_the_right_engine(block: int) -> None:
    """Any drafter, batch, prompt, cap, end of sequence, stop string and law that compares token for token.

    Prompts read at once or in chunks, probabilities reported or not.
    """
    prepare()
    for run in range(RUNS):
        chance = random.Random(1000 * block + run)
        law, accept = chance.choice([(Law(), "greedy"), (PENALTY, "greedy"), (HOT, "coupled")])
        names = [*scripts(answers(), 3), "draft-model"]
        name = chance.choice(names)
        eos = frozenset(chance.sample(range(3, 48), chance.choice([0, 0, 2, 6])))
        one = subject(
            None if name == "draft-model" else lambda sampler, name=name: scripts(answers(), 3)[name],
            law=law,
            accept=accept,
            eos=eos,
        )
        stop = chance.choice([(), (), ("ca",), ("f", "zz")])
        requests = ask(4, chance.randint(1, 7), stop=stop)
        requests = chance.sample(requests, chance.randint(1, 4))
        one = replace(one, rules=replace(one.rules, probabilities=chance.choice([False, True])))
        with chance.choice([nullcontext, small_chunks])():
            found = greedy(one, requests, batch_size=chance.randint(1, 3), audit=chance.choice([0.0, 1.0]))
        assert found == {Verdict.EXACT}, (block, run, name, law, requests)


def test_no_alarm_of_the_statistics_on_right_samples() -> None:
    for seed in range(1000 if LONG else 60):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(600, 12, generator=generator, dtype=torch.float64) * (1 + seed % 5)
        p, q = logits.softmax(-1), logits.roll(seed % 3, 1).softmax(-1)
        tokens = torch.multinomial(p, 1, generator=generator)[:, 0].tolist()
        measured = SampledLaw(seed)
        measured.add(tokens, p, q)
        assert law_verdict(any(test.rejected for test in measured.tests())) == {Verdict.EXACT}, seed
