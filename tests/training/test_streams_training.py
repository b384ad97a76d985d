"""Training streams: the loss is what it says, learning helps on held-out text, foreign weights are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import prompts, shared_lm, tiny_lm
from specctl.errors import MissingError, ModelFileError
from specctl.models import streams
from specctl.models.lm import LM
from specctl.models.streams import Streams
from specctl.training import streams as training
from specctl.training.conversations import Conversation
from specctl.training.loop import Evaluated, Settings, Split, Trainer
from streaming import KEPT, SHAPE, random_cells, samples


def made_up(n: int) -> list[Conversation]:
    texts = [prompts(1, seed=index, lengths=[8 + index % 5])[0] for index in range(n)]
    return [Conversation(index, text[:3], text[3:]) for index, text in enumerate(texts)]


def chances(lm: LM, ids: list[int], kept: torch.Tensor) -> torch.Tensor:
    """The draft's laws behind every one of `ids`, over the kept tokens."""
    cache = lm.new_cache()
    cache.admit()
    return lm.forward(cache, [ids], range(1))[0][:, kept].softmax(-1)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite"])
@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
def test_the_loss_is_the_cross_entropy_with_the_drafts_own_laws(kind: str, trimmed: bool) -> None:
    """Counted by hand, place by place, with the very streams that draft."""
    lm, texts, cells = tiny_lm(kind), made_up(4), random_cells()
    kept = KEPT if trimmed else None
    ids = KEPT if trimmed else torch.arange(lm.vocab_size)
    objective = training.Streams(lm, SHAPE, kept, samples(lm, texts))
    objective.cells.load_state_dict(cells.state_dict())
    using = Streams(lm, cells, kept)
    totals, counts = [0.0, 0.0], [0, 0]
    for number in (0, 2, 3):
        one = texts[number]
        whole = [*one.prompt, *one.answer]
        laws = chances(lm, whole[:-1], ids)
        cache = lm.new_cache()
        cache.admit()
        _, states = lm.forward_states(cache, [whole[:-1]], range(1))
        for at in range(len(one.prompt) - 1, len(whole) - 1):
            state = states[:, at]
            for stream in (0, 1):
                if at + stream + 1 > len(whole) - 2:
                    break
                state, logits = using.follow(stream, state, [whole[at + stream + 1]])
                totals[stream] -= float((laws[at + stream + 1] * logits[0].log_softmax(-1)).sum())
                counts[stream] += 1
    loss, positions = objective.loss([0, 2, 3])
    expected = sum(total / count for total, count in zip(totals, counts, strict=True)) / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert positions == sum(counts)
    with torch.no_grad():
        objective.measure([0, 2, 3])
    for total, count, figures in zip(totals, counts, objective.by_stream, strict=True):
        assert figures.loss == pytest.approx(total / count, rel=1e-6)


def test_the_gradient_is_the_losss() -> None:
    """The short way round the logits leads to the same gradient as the way through them."""
    lm = shared_lm()
    objective = training.Streams(lm, SHAPE, KEPT, samples(lm, made_up(3)))
    objective.cells.load_state_dict(random_cells().state_dict())
    gradients = []
    for capped in (False, True):
        objective._capped = capped
        objective.module.zero_grad()
        loss, _ = objective.loss([0, 1, 2])
        torch.autograd.backward(loss)
        gradients.append([parameter.grad.clone() for parameter in objective.module.parameters()])  # type: ignore[union-attr]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-5)


def trained(tmp_path: Path, **changes: Any) -> list[Evaluated]:
    lm = shared_lm()
    texts = [
        Conversation(i, (5, 6), tuple(5 + (i + 3 * at) % 40 for at in range(16))) for i in range(60)
    ]  # every third number, from anywhere
    objective = training.Streams(lm, SHAPE, None, samples(lm, texts))
    settings = replace(
        Settings(steps=60, batch=8, learning_rate=0.02, warmup=2, evaluate_every=20),
        **changes,
    )
    trainer = Trainer(objective, Split([17] * 60), settings, tmp_path)
    with torch.no_grad():
        trainer.curve.append(Evaluated(0, objective.measure(trainer.split.held_out), False))
    list(trainer.run())
    return trainer.curve


def test_training_helps_where_it_was_not_trained(tmp_path: Path) -> None:
    before, *_, after = trained(tmp_path)
    assert after.figures.acceptance > before.figures.acceptance + 0.1
    assert after.figures.top1 > before.figures.top1 + 0.05


def test_without_a_step_nothing_is_learnt(tmp_path: Path) -> None:
    before, *_, after = trained(tmp_path, learning_rate=0.0)
    assert after.figures.acceptance == pytest.approx(before.figures.acceptance)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    lm, cells = shared_lm(), random_cells()
    streams.write(tmp_path, lm, dict(cells.named_parameters()), SHAPE, KEPT, {"held_out": []})
    found, mine = streams.find(str(tmp_path), lm), Streams(lm, cells, KEPT)
    states = torch.randn(3, 32, dtype=torch.float64)
    for number in (0, 1):
        read, kept = (one.follow(number, states, [4, 5, 6])[1] for one in (found, mine))
        assert torch.equal(read, kept)
        # The token just drafted is part of what a stream's law depends on.
        assert not torch.allclose(read, mine.follow(number, states, [5, 4, 6])[1])
    assert found.kept is not None
    assert found.kept.tolist() == KEPT.tolist()


def test_streams_of_another_model_are_refused(tmp_path: Path) -> None:
    streams.write(tmp_path, shared_lm(), dict(random_cells().named_parameters()), SHAPE, None, {})
    with pytest.raises(ModelFileError, match="trained for another model"):
        streams.find(str(tmp_path), shared_lm(seed=1))
    with pytest.raises(MissingError, match="is shipped"):
        streams.find("shipped", shared_lm())
    with pytest.raises(ModelFileError, match="has no"):
        streams.find(str(tmp_path / "nowhere"), shared_lm())


def test_streams_of_another_shape_are_refused(tmp_path: Path) -> None:
    tensors = dict(random_cells().named_parameters())
    streams.write(tmp_path, shared_lm(), tensors, replace(SHAPE, count=3), None, {})
    with pytest.raises(ModelFileError, match="do not fit"):
        streams.find(str(tmp_path), shared_lm())
