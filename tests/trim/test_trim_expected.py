"""What the draft holds likely, and how it ranks tokens that no answer had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fakes import noisy_lm
from specctl.trim import calibration, counts, expected
from specctl.trim.calibration import Sample

VOCAB = 48
SAMPLES = [
    Sample(index, "a", (1, 2, 3) if index % 2 else (), tuple(range(4, 6 + index % 3))) for index in range(6)
]


def by_hand(sample: Sample) -> torch.Tensor:
    """One forward over all of it; the first token behind no prompt has no prediction."""
    lm = noisy_lm()
    cache = lm.new_cache()
    cache.reserve(1, 16 + lm.row_floor)
    row = cache.admit()
    text = [*sample.prompt, *sample.answer]
    logits = lm.forward(cache, [text], range(row, row + 1))[0]
    return logits[max(len(sample.prompt), 1) - 1 : -1].softmax(dim=-1).sum(dim=0).double()


def test_masses_are_the_drafts_probabilities_over_the_answers() -> None:
    read: list[int] = []
    found = expected.masses(noisy_lm(), SAMPLES, read.append)
    counted, held_out = calibration.split(SAMPLES)
    assert held_out
    assert found.shape == (2, VOCAB)
    for mine, part in zip(found, (counted, held_out), strict=True):
        expect = torch.stack([by_hand(one) for one in part]).sum(dim=0)
        torch.testing.assert_close(mine, expect, rtol=1e-5, atol=1e-6)
    places = sum(len(one.answer) - (not one.prompt) for one in SAMPLES)
    assert float(found.sum()) == pytest.approx(places)
    assert sum(read) == sum(len(one.answer) for one in SAMPLES)


def test_of_many_answers_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "_ENOUGH", 8)
    read: list[int] = []
    expected.masses(noisy_lm(), SAMPLES, read.append)
    assert 8 <= sum(read) < sum(len(one.answer) for one in SAMPLES)


def test_an_answer_of_one_token_without_a_prompt_says_nothing() -> None:
    found = expected.masses(noisy_lm(), [Sample(0, "a", (), (4,))])
    assert float(found.sum()) == 0
    weight = counts.expected(counts.count([[4]], VOCAB), found[0])
    assert counts.ranking(weight, (), VOCAB).tolist() == [4, *range(4), *range(5, VOCAB)]


def test_ids_no_answer_had_follow_the_draft_and_then_their_number() -> None:
    tally = counts.count([[30, 30, 31]], VOCAB)
    mass = torch.zeros(VOCAB, dtype=torch.float64)
    mass[[40, 41, 30]] = torch.tensor([0.2, 0.4, 2.4], dtype=torch.float64)
    order = counts.ranking(counts.expected(tally, mass), {47}, VOCAB)
    assert order[:6].tolist() == [47, 30, 31, 41, 40, 0]
    assert counts.ranking(tally, {47}, VOCAB)[:5].tolist() == [47, 30, 31, 0, 1], "without the draft"


@pytest.mark.parametrize("rows", [40, 60])
def test_a_draft_may_pad_its_vocabulary_otherwise(rows: int) -> None:
    mass = torch.zeros(rows, dtype=torch.float64)
    mass[20] = 1
    weight = counts.expected(counts.count([[30]], VOCAB), mass)
    assert weight.shape == (VOCAB,)
    assert set(counts.ranking(weight, (), VOCAB)[:2].tolist()) == {20, 30}


def test_masses_are_known_again_only_by_their_key(tmp_path: Path) -> None:
    found = torch.rand(2, VOCAB, dtype=torch.float64)
    key = expected.key(SAMPLES, "draft int4")
    assert expected.read(tmp_path, key) is None
    expected.write(tmp_path, key, found)
    kept = expected.read(tmp_path, key)
    assert kept is not None
    assert torch.equal(kept, found)
    assert expected.read(tmp_path, expected.key(SAMPLES, "draft None")) is None
    assert expected.read(tmp_path, expected.key(SAMPLES[1:], "draft int4")) is None
    (tmp_path / expected.FILE).write_bytes(b"\x00" * 40)
    assert expected.read(tmp_path, key) is None
