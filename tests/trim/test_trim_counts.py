"""Which tokens are kept: counts, order, coverage, the curve's arithmetic, and the borders to other engines."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fakes import ask, draft_model, noisy_lm, plain_tokens, run, shared_lm
from specctl.errors import ModelFileError, RequestError
from specctl.models import trimmed
from specctl.models.lm import LM
from specctl.trim import check, costs, counts, curve, export, plot
from specctl.trim.calibration import Sample, split
from specctl.trim.curve import Point
from specctl.trim.source import Source

VOCAB = 30
answers_of = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=6)
must_of = st.sets(st.integers(0, VOCAB - 1), max_size=4)


@given(answers=answers_of, must=must_of, size=st.integers(1, VOCAB))
@settings(max_examples=60, deadline=None)
def test_kept_ids_are_ascending_unique_and_the_most_frequent(
    answers: list[list[int]], must: set[int], size: int
) -> None:
    tally = counts.count(answers, VOCAB)
    order = counts.ranking(tally, must, VOCAB)
    kept = counts.keep(order, size)
    assert len(kept) == size == len(set(kept.tolist()))
    assert bool((kept[1:] > kept[:-1]).all())
    if size >= len(must):
        assert must <= set(kept.tolist())
        free = [one for one in range(VOCAB) if one not in must]
        expected = sorted(free, key=lambda one: (-int(tally[one]), one))[: size - len(must)]
        assert set(kept.tolist()) == must | set(expected)


@given(answers=answers_of, must=must_of, wanted=st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_a_size_for_a_coverage_is_the_smallest(
    answers: list[list[int]], must: set[int], wanted: float
) -> None:
    tally = counts.count(answers, VOCAB)
    order = counts.ranking(tally, must, VOCAB)
    size = counts.size_for(order, tally, wanted)
    flat = [token for answer in answers for token in answer]

    def share(n: int) -> float:
        kept = set(order[:n].tolist())
        return sum(token in kept for token in flat) / len(flat)

    assert share(size) >= wanted - 1e-12
    assert size == 1 or share(size - 1) < wanted


@pytest.mark.parametrize("wanted", [0, -0.5, 1.01, float("nan")])
def test_a_coverage_that_is_no_share_is_refused(wanted: float) -> None:
    tally = counts.count([[1, 2]], VOCAB)
    with pytest.raises(RequestError, match="not a share"):
        counts.size_for(counts.ranking(tally, (), VOCAB), tally, wanted)


def test_a_coverage_beyond_the_drafts_vocabulary_is_refused() -> None:
    tally = counts.count([[1, 2, 25, 25]], VOCAB)
    order = counts.ranking(tally, (), 20)
    assert counts.size_for(order, tally, 0.5) == 2
    with pytest.raises(RequestError, match=r"whole head covers 0\.5000"):
        counts.size_for(order, tally, 0.6)


@pytest.mark.parametrize(("size", "says"), [(0, "not possible"), (31, "not possible"), (2, "below the 3")])
def test_sizes_no_head_can_have_are_refused(size: int, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        counts.require_size(size, {1, 2, 3}, VOCAB)
    counts.require_size(30, {1, 2, 3}, VOCAB)


def test_no_answers_are_refused() -> None:
    with pytest.raises(RequestError, match="no answers"):
        counts.count([[]], VOCAB)


# The curve ------------------------------------------------------------------------------------------------------


def samples(n: int, category: str = "a") -> list[Sample]:
    return [Sample(index, category, (1,), (index % 7, 3)) for index in range(n)]


def test_what_judges_was_not_counted() -> None:
    counted, held_out = split(samples(23))
    assert {one.index for one in counted}.isdisjoint({one.index for one in held_out})
    assert len(held_out) == 4
    assert len(counted) == 19
    few = split(samples(3))
    assert few[0] == few[1]


def with_head(size: int, order: Tensor) -> LM:
    ids = counts.keep(order, size)
    weight = noisy_lm().module.lm_head.weight  # type: ignore[union-attr]
    return trimmed.trimmed(noisy_lm(), trimmed.Head(ids, weight.detach()[ids]))  # type: ignore[operator, index]


def replayed(draft_tokens: int, sizes: list[int], order: Tensor) -> list[float]:
    asked = ask(4, 16)
    told = [
        Sample(i, "a", one.prompt, answer)
        for i, (one, answer) in enumerate(zip(asked, plain_tokens(n=4, new=16), strict=True))
    ]
    right = [costs.hits(noisy_lm(), one, order, sizes).tolist() for one in told]
    return [costs.acceptance_length((one[at] for one in right), draft_tokens) for at in range(len(sizes))]


@pytest.mark.parametrize("draft_tokens", [1, 4])
def test_replayed_acceptance_is_that_of_decoding(draft_tokens: int) -> None:
    """For each kept set: rounds and tokens of the real loop, from one teacher-forced pass."""
    order = torch.randperm(48, generator=torch.Generator().manual_seed(5))
    sizes = [6, 20, 48]
    found = replayed(draft_tokens, sizes, order)
    for size, length in zip(sizes, found, strict=True):
        lm = with_head(size, order)
        tokens, _, events = run(
            shared_lm(), draft_model(shared_lm(), lm, draft_tokens=draft_tokens), ask(4, 16)
        )
        rounds = sum(event.kind == "verified" for event in events)
        assert length == pytest.approx(sum(map(len, tokens)) / rounds)
    assert found[0] < found[-1], "a smaller head must show"


def test_mbsu_is_the_papers_arithmetic() -> None:
    target = Source(Path("t"), "w", None, 1000, 10, parameters=40_000, unread=0)
    draft = Source(Path("d"), "w", None, 1000, 4, parameters=10_000, unread=4000)
    assert costs.mbsu(3.0, draft, target, 1000, 5) == pytest.approx(3 / (6000 / 40_000 * 5 + 1))
    assert costs.mbsu(3.0, draft, target, 250, 5) == pytest.approx(3 / (3000 / 40_000 * 5 + 1))


def test_points_cover_more_as_they_grow_and_all_in_the_end() -> None:
    tally = counts.count([one.answer for one in samples(20)], VOCAB)
    order = counts.ranking(tally, {9}, VOCAB)
    sizes = curve.sizes_for(VOCAB, 1, 7)
    assert sizes == [7, VOCAB]
    assert curve.sizes_for(49152, 900)[0] == 1536
    assert all(size % 64 == 0 for size in curve.sizes_for(151936, 40)[:-1])
    assert 7 in sizes
    points = curve.coverage(order, [*samples(9), *samples(4, "b")], sizes, VOCAB)
    assert all(one.covered <= other.covered for one, other in pairwise(points))
    assert points[-1].covered == 1
    assert points[-1].coverage == {"a": 1.0, "b": 1.0}


def test_measured_costs_are_of_every_size() -> None:
    drafts = {size: with_head(size, torch.arange(48)) for size in (8, 48)}
    found = costs.measure(shared_lm(), drafts, 3, repeats=1)
    assert found.head.keys() == {8, 48}
    assert found.a_round(8, 3) == pytest.approx(3 * (found.body + found.head[8]) + found.verify)


def test_the_best_point_has_most_tokens_a_second() -> None:
    points = [Point(n, 1.0, {}, predicted=speed) for n, speed in ((4, 2.0), (8, 3.0), (16, 3.0), (32, 1.0))]
    assert curve.best(points).size == 16


def test_the_picture_is_well_formed_and_its_title_harmless() -> None:
    points = [Point(8, 0.5, {}, 1.5, 1.1, 0.001, 2.0, 2.1), Point(48, 1.0, {}, 2.0, 1.0, 0.004, 1.9, 1.8)]
    root = ET.fromstring(plot.svg(points, "<script>&", 8))
    assert len([one for one in root.iter() if one.tag.endswith("polyline")]) == 5
    assert "<script>&" in {one.text for one in root.iter()}
    bare = ET.fromstring(plot.svg([Point(8, 0.5, {}), Point(48, 1.0, {})], "x", 8))
    assert len([one for one in bare.iter() if one.tag.endswith("polyline")]) == 1


def test_coverage_that_falls_is_said() -> None:
    from specctl.store.vocabulary import Vocabulary

    words = Vocabulary({7: "seven"}, frozenset(), "", None, frozenset(), {})
    text = [Sample(0, "good", (), (1, 2, 1, 2)), Sample(1, "bad", (), (1, 7, 7, 8))]
    found = {one.category: one for one in check.check(text, torch.tensor([1, 2]), 0.9, words, VOCAB)}
    assert (found["good"].coverage, found["good"].falls, found["good"].missed) == (1.0, False, [])
    assert (found["bad"].coverage, found["bad"].falls, found["bad"].missed) == (0.25, True, ["seven", "8"])
    assert found["all"].tokens == 8


# Other engines --------------------------------------------------------------------------------------------------

kept_of = st.sets(st.integers(0, VOCAB - 1), min_size=1).map(lambda ids: torch.tensor(sorted(ids)))


@given(ids=kept_of, answers=answers_of)
@settings(max_examples=40, deadline=None)
def test_exported_maps_come_back(ids: Tensor, answers: list[list[int]]) -> None:
    maps = export.to_d2t(ids, VOCAB)
    assert torch.equal(maps["t2d"].nonzero()[:, 0], maps["d2t"] + torch.arange(len(ids)))
    assert torch.equal(export.from_d2t(maps), ids)
    tally = counts.count(answers, VOCAB)
    listed = export.to_token_map(ids, tally)
    assert torch.equal(export.from_token_map(listed), ids)
    assert bool((tally[listed][1:] <= tally[listed][:-1]).all())


def test_a_lost_map_is_seen() -> None:
    """All zeros say that draft j is target j (EAGLE issue 222)."""
    maps = export.to_d2t(torch.tensor([3, 5]), VOCAB)
    with pytest.raises(ModelFileError, match="contradict"):
        export.from_d2t({**maps, "d2t": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ModelFileError, match="twice"):
        export.from_token_map(torch.tensor([3, 5, 3]))


@pytest.mark.parametrize("form", export.FILES)
def test_exports_are_read_back_from_disk(form: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ids = torch.tensor([2, 7, 19])
    path = export.write(tmp_path, form, ids, counts.count([[19, 19, 2]], VOCAB))
    if form == "d2t":
        assert torch.equal(export.from_d2t(load_file(path)), ids)
    else:
        assert torch.load(path, weights_only=True).tolist() == [19, 2, 7]
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
