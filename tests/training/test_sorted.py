"""Sorted fine-tuning: the loss is what it says, runs resume bit for bit, and one draft is as good as many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from fakes import prompts, tiny_lm
from specctl.models.lm import LM
from specctl.models.sorted_draft import Shape
from specctl.training import thresholds
from specctl.training.conversations import Conversation
from specctl.training.loop import Ended, Settings, Split, Trainer
from specctl.training.sorted import Sorted
from specctl.training.thresholds import Heard, Prices

SETTINGS = Settings(steps=12, batch=4, learning_rate=0.02, warmup=2, evaluate_every=4)
DEPTHS = (1, 2, 4)
KEPT = torch.arange(0, 48, 2)


def made_up(n: int = 60) -> list[Conversation]:
    texts = [prompts(1, seed=index, lengths=[8 + index % 5])[0] for index in range(n)]
    return [Conversation(index, text[:3], text[3:]) for index, text in enumerate(texts)]


def logits(lm: LM, one: Conversation) -> torch.Tensor:
    """Of a whole model, where tokens of the answer are predicted."""
    cache = lm.new_cache()
    cache.admit()
    return lm.forward(cache, [[*one.prompt, *one.answer[:-1]]], range(1))[0, len(one.prompt) - 1 :]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite"])
@pytest.mark.parametrize("kept", [None, KEPT], ids=["whole", "trimmed"])
@pytest.mark.parametrize("loss", ["ce", "distil"])
def test_the_loss_is_the_mean_over_depths(kind: str, kept: torch.Tensor | None, loss: Any) -> None:
    base, texts = tiny_lm(kind), made_up(4)
    objective = Sorted(base, Shape(DEPTHS, 2), kept, texts, loss)
    with torch.no_grad():
        for parameter in objective.module.parameters():
            parameter.add_(0.1)
    found, n = objective.loss([0, 1, 3])
    ids = torch.arange(48) if kept is None else kept
    expected = []
    for depth in DEPTHS:
        whole = objective.draft.merged(base)
        part = LM(whole.module, "part")
        total, count = 0.0, 0
        for number in (0, 1, 3):
            one = texts[number]
            cache = part.new_cache()
            cache.admit()
            states = part.segment(cache, [[*one.prompt, *one.answer[:-1]]], range(1), 0, depth)
            mine = part.read_out(states)[0, len(one.prompt) - 1 :, ids].log_softmax(-1)
            theirs = logits(base, one)[:, ids].softmax(-1)
            for at, token in enumerate(one.answer):
                if loss == "distil":
                    total, count = total - float((theirs[at] * mine[at]).sum()), count + 1
                elif token in ids.tolist():
                    total, count = total - float(mine[at, ids.tolist().index(token)]), count + 1
        expected.append(total / count)
        assert count == n
    assert float(found.detach()) == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", ["ce", "distil"])
def test_the_gradient_is_the_losss(loss: Any) -> None:
    """The short way round the logits leads to the same gradient as the way through them."""
    objective = Sorted(tiny_lm(), Shape((1, 3)), None, made_up(4), loss)
    total = torch.zeros(())
    for number in (0, 2):
        theirs = objective._law(number) if loss == "distil" else objective._labels([number])
        for hidden in objective._hidden([number]):
            total = total + cross_entropy(objective._logits(hidden), theirs, reduction="sum")
    n = len(objective._labels([0, 2]))
    weights = list(objective.module.parameters())
    expected = torch.autograd.grad(total / (2 * n), weights)
    found = torch.autograd.grad(objective.loss([0, 2])[0], weights)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_measured_figures_are_those_of_the_draft(tmp_path: Path) -> None:
    base, texts = tiny_lm(), made_up(30)
    objective = Sorted(base, Shape(DEPTHS), KEPT, texts)
    with torch.no_grad():
        objective.measure(range(8))
    lm = objective.draft.merged(base, KEPT)
    equal = acceptance = 0.0
    n = 0
    for one in texts[:8]:
        p, q = logits(base, one)[:, KEPT].softmax(-1), logits(lm, one).softmax(-1)
        equal += float((p.argmax(-1) == q.argmax(-1)).sum())
        acceptance += float(torch.minimum(p, q).sum())
        n += len(p)
    deepest = objective.by_depth[-1]
    assert (deepest.top1, deepest.acceptance) == pytest.approx((equal / n, acceptance / n))
    assert len(objective.by_depth) == 3


def trainer(folder: Path, settings: Settings = SETTINGS, rank: int | None = 2) -> Trainer:
    texts = made_up()
    objective = Sorted(tiny_lm(), Shape(DEPTHS, rank), None, texts, "distil", settings.seed)
    return Trainer(objective, Split(objective.lengths), settings, folder)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(
    tmp_path: Path, rank: int | None
) -> None:
    assert list(trainer(tmp_path / "whole", rank=rank).run())[-1] == Ended(12, "done")
    first = trainer(tmp_path / "cut", rank=rank)
    assert list(first.run(lambda: first.step == 6))[-1] == Ended(6, "cancelled")
    second = trainer(tmp_path / "cut", rank=rank)
    assert second.resume()
    list(second.run())
    ends = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "cut")]
    assert ends[0] == ends[1]


# One for all depths, or one each ---------------------------------------------------------------------------------


def language(n: int) -> list[Conversation]:
    """Sentences whose next token depends on the last two, nine times out of ten."""
    chance = torch.Generator().manual_seed(7)
    table = torch.randint(3, 11, (11, 11), generator=chance)
    texts = []
    for index in range(n):
        ids = torch.randint(3, 11, (2,), generator=chance).tolist()
        for lucky in (torch.rand(18, generator=chance) < 0.9).tolist():
            other = int(torch.randint(3, 11, (1,), generator=chance))
            ids.append(int(table[ids[-2], ids[-1]]) if lucky else other)
        texts.append(Conversation(index, tuple(ids[:2]), tuple(ids[2:])))
    return texts


def taught(*depths: int, steps: int) -> list[float]:
    """Held-out losses at depths 1 and 3 of a model that was trained at `depths` only."""
    base = tiny_lm(dtype=torch.float32)
    texts = language(300)
    objective = Sorted(base, Shape(depths), None, texts)
    split = Split(objective.lengths)
    optimiser = torch.optim.AdamW(objective.module.parameters(), lr=5e-3)
    for step in range(steps):
        loss, _ = objective.loss(split.batch(step, 16, 0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    exits = Sorted(base, Shape((1, *depths[-1:]) if depths[-1] > 1 else (1,)), None, texts)
    exits.module.load_state_dict(objective.module.state_dict())
    with torch.no_grad():
        exits.measure(split.held_out)
    return [one.loss for one in exits.by_depth]


@pytest.fixture(scope="module")
def losses() -> dict[str, list[float]]:
    """As many layers are trained for the sorted draft, 160 times 3, as for the other two together, 120 times 4."""
    return {"sorted": taught(1, 3, steps=160), "shallow": taught(1, steps=120), "deep": taught(3, steps=120)}


def test_one_sorted_draft_is_as_good_as_one_for_each_depth(losses: dict[str, list[float]]) -> None:
    assert losses["sorted"][0] < 1.05 * losses["shallow"][0]
    assert losses["sorted"][1] < 1.05 * losses["deep"][1]


def test_deeper_is_better_and_an_exit_that_was_not_trained_is_worse(losses: dict[str, list[float]]) -> None:
    shallow, deep = losses["sorted"]
    assert deep <= shallow + 0.02
    assert losses["deep"][0] > 1.5 * shallow


# Thresholds ------------------------------------------------------------------------------------------------------


def heard(seed: int, n: int = 400) -> Heard:
    """Two depths: the first is right when it is sure, else wrong; the second is right three times out of four."""
    generator = torch.Generator().manual_seed(seed)
    sure = torch.rand(n, generator=generator)
    second = torch.rand(n, generator=generator) < 0.75
    return Heard(torch.stack([sure, torch.full((n,), 0.5)]), torch.stack([sure > 0.4, second]))


def test_the_fit_finds_where_the_first_depth_stops_being_right() -> None:
    """A second depth that costs little is asked for what the first would get wrong."""
    prices = Prices(segments=(0.1, 0.3), read_out=0.01, verify=10.0, plain=9.0)
    found = thresholds.fit([heard(0), heard(1), heard(2)], prices, 4)
    assert found.thresholds == (pytest.approx(0.4, abs=0.051), 0.0)
    assert found.speedup > max(found.static) > 1
    assert found.exits[0] == pytest.approx(0.6, abs=0.06)


def test_the_fit_follows_the_prices() -> None:
    """What is too dear is never asked; what is free always, if it is right more often."""
    dear = Prices(segments=(0.1, 50.0), read_out=0.01, verify=10.0, plain=9.0)
    assert thresholds.fit([heard(0), heard(1)], dear, 4).thresholds[0] == 0.0
    always_right = replace(heard(0), right=torch.ones(2, 400, dtype=torch.bool))
    always_right.right[0] = False
    free = Prices(segments=(0.1, 0.0), read_out=0.0, verify=10.0, plain=9.0)
    assert thresholds.fit([always_right, always_right], free, 4).thresholds[0] >= 0.95


def test_a_promise_is_tokens_over_time() -> None:
    """All right: five tokens a round of four drafted ones and a verification."""
    one = Heard(torch.ones(2, 10), torch.ones(2, 10, dtype=torch.bool))
    prices = Prices(segments=(0.5, 0.5), read_out=0.25, verify=11.0, plain=10.0)
    assert thresholds.promised([one], prices, 4, [0.5, 0.0]) == pytest.approx(5 * 10 / (11 + 4 * 0.75))
    assert thresholds.promised([one], prices, 4, [1.01, 0.0]) == pytest.approx(5 * 10 / (11 + 4 * 1.5))
    assert thresholds.promised_at([one], prices, 4, 1) == pytest.approx(5 * 10 / (11 + 4 * 1.25))


def test_what_was_heard_is_what_the_depths_say() -> None:
    base = tiny_lm()
    objective = Sorted(base, Shape((1, 4)), KEPT, made_up(4))
    draft = objective.draft.merged(base, KEPT)
    draft.exits = ((1, 0.0), (4, 0.0))
    for one in made_up(4):
        found = thresholds.listen(draft, one)
        best = logits(draft, one).softmax(-1).max(-1)
        assert found.sure.shape == found.right.shape == (2, len(one.answer))
        torch.testing.assert_close(found.sure[1].double(), best.values, rtol=1e-5, atol=1e-6)
        said = KEPT[best.indices].tolist()
        assert found.right[1].tolist() == [a == b for a, b in zip(said, one.answer, strict=True)]
