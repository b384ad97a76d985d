"""Capture and training on a tiny model: resumed runs end where uninterrupted ones do, and something is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fakes import prompts, tiny_lm, tiny_module
from specctl.errors import RequestError
from specctl.models.adapter import Shape
from specctl.models.lm import LM
from specctl.training import capture, kangaroo, predict
from specctl.training.capture import Captured, states_of
from specctl.training.conversations import Conversation
from specctl.training.kangaroo import Kangaroo, frequent_tokens
from specctl.training.loop import Ended, Evaluated, Settings, Split, Stepped, Trainer
from specctl.training.muon import orthogonalised
from specctl.training.shards import Shards

SETTINGS = Settings(steps=12, batch=4, learning_rate=0.02, warmup=2, evaluate_every=4)
DEPTHS = [1, 2]
NEAR = {"rtol": 1e-5, "atol": 1e-5}  # transformers takes the softmax of attention in float32


def made_up(indices: Sequence[int]) -> Iterable[Conversation]:
    for index in indices:
        text = prompts(1, seed=index, lengths=[8 + index % 5])[0]
        yield Conversation(index, text[:3], text[3:])


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm()


@pytest.fixture(scope="module")
def folder(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states")
    fill(lm, path)
    return path


def fill(lm: LM, folder: Path, *, tokens: int = 1200, budget: int = 10**9) -> list[Captured]:
    about = capture.facts(lm, DEPTHS, {})
    return list(capture.capture(lm, made_up, folder, about, tokens=tokens, budget=budget))


def read(lm: LM, folder: Path) -> Shards:
    return Shards(folder, capture.facts(lm, DEPTHS, {}))


def trainer(lm: LM, states: Path, folder: Path, settings: Settings = SETTINGS) -> Trainer:
    data = read(lm, states)
    return Trainer(Kangaroo(lm, Shape(2, "layer"), None, data), Split(data.lengths), settings, folder)


def test_captured_states_are_those_of_a_whole_forward(lm: LM, folder: Path) -> None:
    data = read(lm, folder)
    plain = tiny_module(native=True)
    for number in (0, 70, len(data) - 1):
        sample = data.sample(number, DEPTHS)
        out = plain(sample.ids[None, :-1], output_hidden_states=True, use_cache=False)
        for depth in DEPTHS:
            torch.testing.assert_close(sample.hidden[depth], out.hidden_states[depth][0], **NEAR)
        torch.testing.assert_close(lm.module.lm_head(sample.last), out.logits[0], **NEAR)
        assert sample.answer == 2


def test_a_killed_capture_goes_on(lm: LM, folder: Path, tmp_path: Path) -> None:
    fill(lm, tmp_path, tokens=300)
    assert len(read(lm, tmp_path)) < len(read(lm, folder))
    (tmp_path / ".000001.safetensors.7.tmp").write_bytes(b"half a shard")
    fill(lm, tmp_path)
    for path in sorted(folder.glob("*.safetensors")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_capture_ends_at_the_disk_budget(lm: LM, tmp_path: Path) -> None:
    last = fill(lm, tmp_path, tokens=10**6, budget=600_000)[-1]
    assert last.full
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == last.bytes <= 600_000


def test_states_of_another_target_are_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="another target"):
        read(tiny_lm(seed=1), folder)


def test_conversations_without_an_answer_are_left_out(lm: LM) -> None:
    assert states_of(lm, Conversation(0, (3, 4), ()), DEPTHS) is None
    assert states_of(lm, Conversation(0, (3,) * 200, (4,) * 100), DEPTHS) is None


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(
    lm: LM, folder: Path, tmp_path: Path, optimiser: str
) -> None:
    settings = replace(SETTINGS, optimiser=optimiser)
    whole = trainer(lm, folder, tmp_path / "whole", settings)
    events = list(whole.run())
    assert events[-1] == Ended(12, "done")
    first = trainer(lm, folder, tmp_path / "cut", settings)
    stopped = list(first.run(lambda: first.step == 6))
    assert stopped[-1] == Ended(6, "cancelled")
    second = trainer(lm, folder, tmp_path / "cut", settings)
    assert second.resume()
    rest = list(second.run())
    losses = [[one.loss for one in some if isinstance(one, Stepped)] for some in (events, stopped + rest)]
    assert losses[0] == losses[1]
    assert [one.step for one in second.curve] == [4, 8, 12]
    assert second.curve == whole.curve
    ends = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "cut")]
    assert ends[0] == ends[1]


def test_muon_makes_singular_values_one() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for one in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonalised(one).float())
        assert 0.6 < values.min() <= values.max() < 1.3
        u, _, vt = torch.linalg.svd(one, full_matrices=False)
        assert (
            torch.corrcoef(torch.stack([(u @ vt).flatten(), orthogonalised(one).float().flatten()]))[0, 1]
            > 0.9
        )


def test_the_loss_is_the_soft_cross_entropy(lm: LM, folder: Path) -> None:
    """Value and gradient, against the formula with both laws written out."""
    data = read(lm, folder)
    for kept in (None, torch.arange(0, 48, 2)):
        one = Kangaroo(lm, Shape(2, "layer"), kept, data)
        samples = [data.sample(number, DEPTHS) for number in (3, 9)]
        loss, n = one.loss([3, 9])
        law = one._logits(one._last(samples)).softmax(-1)
        written_out = -(law * one._logits(one._hidden(samples)).log_softmax(-1)).sum(-1).mean()
        assert n == len(law)
        torch.testing.assert_close(loss, written_out)
        parameters = list(one.module.parameters())
        for mine, theirs in zip(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(written_out, parameters), strict=True
        ):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
def test_scaled_and_capped_logits_have_the_same_loss(kind: str, tmp_path: Path) -> None:
    lm = tiny_lm(kind, **({"final_logit_softcapping": 2.0} if kind == "gemma2" else {}))
    fill(lm, tmp_path, tokens=300)
    data = read(lm, tmp_path)
    one = Kangaroo(lm, Shape(2, "layer"), None, data)
    samples = [data.sample(number, DEPTHS) for number in (3, 9)]
    law = lm.module.lm_head(one._last(samples)) / getattr(lm.config, "logits_scaling", 1)
    if kind == "gemma2":
        law = torch.tanh(law / 2.0) * 2.0
    written_out = -(law.softmax(-1) * one._logits(one._hidden(samples)).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(one.loss([3, 9])[0], written_out)


def test_what_is_remembered_of_the_target_is_bounded(
    lm: LM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room, each is worked out again; the run is the same."""
    ends = []
    for room in (10**9, 20_000):
        monkeypatch.setattr(kangaroo, "_ROOM", room)
        one = trainer(lm, folder, tmp_path / str(room))
        list(one.run())
        held = sum(centre.nbytes for centre in one.objective._centres.values())  # type: ignore[attr-defined]
        assert 0 < held <= room
        ends.append((tmp_path / str(room) / "checkpoint.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_planted_optimiser_without_a_past_is_seen(lm: LM, folder: Path, tmp_path: Path) -> None:
    first = trainer(lm, folder, tmp_path)
    list(first.run(lambda: first.step == 6))
    resumed, forgetful = (trainer(lm, folder, tmp_path) for _ in range(2))
    assert resumed.resume()
    assert forgetful.resume()
    for optimiser in forgetful._optimisers:
        optimiser.state.clear()
    losses = [[one.loss for one in some.run() if isinstance(one, Stepped)] for some in (resumed, forgetful)]
    assert losses[0] != losses[1]


def test_it_learns_and_stops_early(lm: LM, folder: Path, tmp_path: Path) -> None:
    long = replace(SETTINGS, steps=400, evaluate_every=10, patience=2)
    one = trainer(lm, folder, tmp_path, long)
    events = list(one.run())
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.reason == "early"
    figures = [event.figures for event in events if isinstance(event, Evaluated)]
    assert one.figures == max(figures, key=lambda one: one.acceptance)
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_batches_are_each_sample_once_an_epoch() -> None:
    split = Split([5 + i % 7 for i in range(100)])
    per_epoch = len(split.train) // 4
    seen = [number for step in range(per_epoch) for number in split.batch(step, 4, 0)]
    assert len(set(seen)) == len(seen) > 90
    assert not set(seen) & set(split.held_out)
    assert split.batch(0, 4, 0) != split.batch(per_epoch, 4, 0)


def test_frequent_tokens_keep_what_has_to_stay() -> None:
    assert frequent_tokens([[5, 5, 7, 9, 9, 9]], 3, [2]).tolist() == [2, 5, 9]


def test_predictions() -> None:
    costs = predict.Costs(plain=10, shallow=1, adapter=1, deep=9)
    assert predict.speedup(costs, 0.0, 1) == pytest.approx(10 / 12)
    assert predict.speedup(costs, 1.0, 4) == pytest.approx(50 / 18)
    assert predict.best(costs, 1.0)[0] == 8
    assert predict.best(costs, 0.1)[0] == 1
