"""Sampling under speculation: `coupled` says what plain sampling says, `rejection` repeats, penalties are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from fakes import (
    SCRIPTS,
    VOCAB,
    ask,
    draft_model,
    ngram,
    noisy_lm,
    plain_tokens,
    prompts,
    run,
    scripts,
    shared_lm,
    tiny_module,
)
from specctl.decode import sampling
from specctl.decode.draft import Drafter
from specctl.decode.noise import KeyedDraws, Place, Stream
from specctl.decode.sampling import Law
from specctl.decode.stats import Stats

WARM = Law(0.8)
LAWS = {
    "warm": WARM,
    "everything": Law(0.8, top_k=12, top_p=0.9, min_p=0.02, repetition_penalty=1.3),
}
N_NEW = 16


def drafters(law: Law, accept: str) -> dict[str, Drafter]:
    """The real drafters, as the loop gets them for a law."""
    return {
        "draft-model": draft_model(shared_lm(), noisy_lm(), law=law, accept=accept),
        "ngram": ngram(draft_tokens=4),
    }


def coupled(drafter: Drafter, law: Law, batch_size: int) -> list[tuple[int, ...]]:
    tokens, _, _ = run(shared_lm(), drafter, ask(5, N_NEW), law=law, accept="coupled", batch_size=batch_size)
    return [tuple(row) for row in tokens]


def plain(law: Law) -> list[tuple[int, ...]]:
    return list(plain_tokens(new=N_NEW, law=law, accept="coupled"))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_coupled_sampling_does_not_depend_on_the_draft(script: str, batch_size: int) -> None:
    assert coupled(scripts(plain(WARM), 4)[script], WARM, batch_size) == plain(WARM)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("method", ["draft-model", "ngram"])
def test_coupled_sampling_with_real_drafters(method: str, law: str, batch_size: int) -> None:
    drafter = drafters(LAWS[law], "coupled")[method]
    assert coupled(drafter, LAWS[law], batch_size) == plain(LAWS[law])


def test_plain_sampling_is_one_thing() -> None:
    """With nothing drafted `rejection` and `coupled` draw the same numbers; another seed draws others."""
    assert plain(WARM) == list(plain_tokens(new=N_NEW, law=WARM, accept="rejection"))
    assert plain(WARM) != list(plain_tokens(new=N_NEW))
    others = [replace(one, max_new_tokens=N_NEW, seed=one.seed + 100) for one in ask(5)]
    tokens, _, _ = run(shared_lm(), None, others, law=WARM, accept="coupled")
    assert all(tuple(row) != answer for row, answer in zip(tokens, plain(WARM), strict=True))


def test_shared_noise_makes_drafts_fit() -> None:
    """A draft model that draws by the target's numbers is accepted more often than one that draws by its own."""
    rates = {}
    for shared in (True, False):
        stats = Stats()
        drafter = draft_model(shared_lm(), noisy_lm(), law=WARM, accept="coupled" if shared else "rejection")
        run(shared_lm(), drafter, ask(5), law=WARM, accept="coupled", on_event=stats.add)
        rates[shared] = stats.acceptance_rate
    assert rates[True] > rates[False]


@pytest.mark.parametrize("method", ["draft-model", "ngram", "coin", "uneven"])
def test_rejection_repeats_on_any_batch(method: str) -> None:
    """The noise is a row's own: neighbours, batch size and an earlier run change nothing."""

    def answers(batch_size: int) -> list[list[int]]:
        script = scripts(plain_tokens(new=N_NEW), 3)
        drafter = (script | drafters(WARM, "rejection"))[method]
        return run(shared_lm(), drafter, ask(5, N_NEW), law=WARM, accept="rejection", batch_size=batch_size)[
            0
        ]

    alone = answers(1)
    assert answers(1) == alone
    assert answers(3) == alone


class SharedGenerator(KeyedDraws):
    """Planted: one generator for all draws, as most code has it."""

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        return self._generator


class SeededEveryRound(KeyedDraws):
    """Planted: the position is counted from the start of the round."""

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        first = min(place.position for place in at)
        return super().sample(probs, [Place(one.key, one.position - first) for one in at], stream)


@pytest.mark.parametrize(
    "draws",
    [SharedGenerator, SeededEveryRound],
    ids=["planted-shared-generator", "planted-seeded-every-round"],
)
def test_broken_noise_is_seen(draws: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "KeyedDraws", draws)
    said, _, _ = run(shared_lm(), None, ask(5, N_NEW), law=WARM, accept="coupled")
    drafter = scripts(said, 4)["coin"]
    assert coupled(drafter, WARM, 3) != [tuple(row) for row in said]


# Repetition penalty ---------------------------------------------------------------------------------------------

PENALISED = Law(repetition_penalty=1.8)


def penalised_alone(module: Any, prompt: Sequence[int], n: int) -> list[int]:
    """Greedy decoding with transformers' own penalty, without a cache."""
    ids = list(prompt)
    penalty = RepetitionPenaltyLogitsProcessor(PENALISED.repetition_penalty)
    with torch.inference_mode():
        for _ in range(n):
            logits = module(torch.tensor([ids]), use_cache=False).logits[:, -1]
            ids.append(int(penalty(torch.tensor([ids]), logits)[0].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("method", ["always-right", "coin", "uneven", "over-long", "draft-model", "ngram"])
def test_penalised_greedy_output_is_plain(method: str, batch_size: int) -> None:
    expected = plain_tokens(law=PENALISED)
    drafter = (scripts(expected, 4) | drafters(PENALISED, "greedy"))[method]
    tokens, _, _ = run(shared_lm(), drafter, ask(5), law=PENALISED, batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(expected)


def test_penalised_plain_decoding_is_transformers() -> None:
    expected = [tuple(penalised_alone(tiny_module(native=True), prompt, 24)) for prompt in prompts(5)]
    assert list(plain_tokens(law=PENALISED)) == expected
    assert list(plain_tokens()) != expected, "the penalty changes nothing, so the test says nothing"


@pytest.mark.parametrize("planted", ["block-left-out", "rejected-tokens-stay"])
def test_planted_penalty_bugs_are_seen(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty that misses the tokens of the block, and one that remembers what was rejected."""
    expected = plain_tokens(law=PENALISED)
    scores = Law.scores
    rejected: list[int] = []

    def broken(law: Law, logits: Tensor, histories: Sequence[Sequence[int]], drafts: Any) -> Tensor:
        if planted == "block-left-out":
            return scores(law, logits, histories, [[] for _ in drafts])
        seen = [[*history, *rejected] for history in histories]
        rejected.extend(token for draft in drafts for token in draft if token < VOCAB)
        return scores(law, logits, seen, drafts)

    monkeypatch.setattr(Law, "scores", broken)
    tokens, _, _ = run(shared_lm(), scripts(expected, 4)["coin"], ask(5), law=PENALISED)
    assert [tuple(row) for row in tokens] != list(expected)
