"""Mirror-SD: the same output as ever, and drafts made ahead that are those made after the fact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from mirrors import LAWS, N_LAYERS, Compared, hits, mirror, rounds

from fakes import ask, draft_model, noisy_lm, plain_tokens, run, shared_lm, tiny_lm
from specctl.decode.draft import Key, Request, Row
from specctl.decode.sampling import Law
from specctl.drafters.mirror import Mirror
from specctl.errors import RequestError
from specctl.events import Branched, Mirrored
from specctl.mirror.branches import Branch, Twig
from specctl.mirror.outcomes import Guess, choose
from specctl.mirror.sites import InThread, Met
from specctl.mirror.writer import Writer
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from streaming import streaming_lm

NEW = 10


@cache
def drafted(law: Law, accept: str, batch_size: int) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """What a draft model's rounds are; computed once."""
    one = draft_model(shared_lm(), noisy_lm(), law=law, accept=accept)
    tokens, _, events = run(shared_lm(), one, ask(3, NEW), batch_size=batch_size, law=law, accept=accept)
    return tokens, rounds(events)


@pytest.mark.parametrize(
    ("law", "accept", "batch_size"), [(*one, i + 1) for i, one in enumerate(LAWS)], ids=str
)
@pytest.mark.parametrize("exit_", [1, 2, N_LAYERS])
@pytest.mark.parametrize("candidates", [0, 1, 4])
def test_output_and_rounds_are_the_draft_models(
    candidates: int, exit_: int, law: Law, accept: str, batch_size: int
) -> None:
    """Draws are keyed by position, so rejection sampling too gives the same tokens whatever was drafted ahead."""
    one = mirror(exit=exit_, candidates=candidates, law=law, accept=accept)
    tokens, _, events = run(shared_lm(), one, ask(3, NEW), batch_size=batch_size, law=law, accept=accept)
    assert (tokens, rounds(events)) == drafted(law, accept, batch_size)
    assert bool(hits(events)) is bool(candidates)


@pytest.mark.parametrize(("law", "accept"), [LAWS[0], LAWS[1]], ids=["greedy", "coupled"])
def test_output_is_plain_decodings(law: Law, accept: str) -> None:
    tokens, _, _ = run(
        shared_lm(), mirror(law=law, accept=accept), ask(4), batch_size=2, law=law, accept=accept
    )
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=4, law=law, accept=accept))


@pytest.mark.parametrize(("law", "accept"), [LAWS[0], LAWS[1]], ids=["greedy", "coupled"])
@pytest.mark.parametrize(("candidates", "branches"), [(1, 1), (4, 8)])
def test_an_exit_at_the_top_always_hits(candidates: int, branches: int, law: Law, accept: str) -> None:
    """It knows the verdict, and one branch is enough; a sharp test of the keys."""
    one = mirror(exit=N_LAYERS, candidates=candidates, branches=branches, law=law, accept=accept)
    _, _, events = run(shared_lm(), one, ask(4), batch_size=3, law=law, accept=accept)
    assert len(hits(events)) > 20
    assert all(hits(events))
    most = max(len(event.keys) for event in events if isinstance(event, Branched))
    assert most <= branches


def compared(law: Law, accept: str, **settings: Any) -> Compared:
    one = Compared(law=law, accept=accept, branches=64, **settings)
    run(shared_lm(), one, ask(4), batch_size=3, law=law, accept=accept)
    assert one.hits > 8
    return one


@pytest.mark.parametrize(("law", "accept"), LAWS, ids=["greedy", "coupled", "rejection"])
def test_a_hit_is_what_drafting_after_the_fact_gives(law: Law, accept: str) -> None:
    assert compared(law, accept).wrong == 0


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2", "gemma3_text", "granite"])
def test_other_families(kind: str) -> None:
    """Sliding windows among them: a branch's distances are those of its positions, not of its slots."""
    one = Compared(lm=shared_lm(kind), draft=noisy_lm(kind), branches=64)
    tokens, _, _ = run(shared_lm(kind), one, ask(3), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens(kind)[:3])
    assert one.hits > 4
    assert one.wrong == 0


@pytest.mark.parametrize("schedule", ["eqspec", "exspec"])
def test_batch_schedules(schedule: str) -> None:
    tokens, _, events = run(shared_lm(), mirror(), ask(5), batch_size=2, schedule=schedule)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert any(hits(events))


def test_dummy_rows_change_nothing() -> None:
    floored = LM(noisy_lm().module, "floored", row_floor=4)
    tokens, _, events = run(shared_lm(), mirror(draft=floored, branches=2), ask(3), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens()[:3])
    assert any(hits(events))


def test_the_drafts_own_context_ends_branches_too() -> None:
    short = tiny_lm(max_position_embeddings=15)
    one = Compared(draft=short, candidates=8, branches=64)
    tokens, _, _ = run(shared_lm(), one, ask(4, 16), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=4, new=16))
    for committed, draft in one.log:
        for ids, drafted in zip(committed, draft.tokens, strict=True):
            assert len(ids) + len(drafted) <= 15 or not drafted
    assert one.wrong == 0


@pytest.mark.parametrize("vocab", [40, 64], ids=["narrower", "wider"])
@pytest.mark.parametrize(("law", "accept"), LAWS, ids=["greedy", "coupled", "rejection"])
def test_padded_vocabularies_of_other_sizes(vocab: int, law: Law, accept: str) -> None:
    other = tiny_lm(seed=5, vocab_size=vocab)
    asked = [Request(tuple(token % 40 for token in one.prompt), 12, seed=i) for i, one in enumerate(ask(2))]
    settings: Any = {"law": law, "accept": accept}
    expected = run(shared_lm(), draft_model(shared_lm(), other, **settings), asked, batch_size=2, **settings)[
        0
    ]
    assert run(shared_lm(), mirror(draft=other, **settings), asked, batch_size=2, **settings)[0] == expected


def test_no_branch_goes_on_behind_the_end_of_sequence() -> None:
    answers = plain_tokens()
    eos = frozenset(row[8] for row in answers)
    one = Compared(draft=shared_lm(), eos=eos)
    tokens, reasons, events = run(shared_lm(), one, ask(5), batch_size=2, eos=eos)
    plain, _, _ = run(shared_lm(), None, ask(5), eos=eos)
    assert tokens == plain
    assert set(reasons) == {"stop"}
    assert not any(token in eos for event in events if isinstance(event, Branched) for _, token in event.keys)
    assert one.wrong == 0


class Unwanted(torch.nn.Module):
    def forward(self, **inputs: Any) -> Any:
        raise RuntimeError("asked to read a prompt")


def test_prompts_are_read_by_the_weights_that_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others read them a little differently, and when a draft is asked for would be seen in it."""
    monkeypatch.setattr("specctl.models.lm._READER_FROM", 1)
    two = replace(noisy_lm(), reader=Unwanted())
    assert run(shared_lm(), mirror(draft=two), ask(2))[0] == run(shared_lm(), mirror(), ask(2))[0]
    with pytest.raises(RuntimeError, match="asked to read"):
        run(shared_lm(), draft_model(shared_lm(), two), ask(2))


def test_an_exit_outside_the_model_is_refused() -> None:
    with pytest.raises(RequestError, match="not inside"):
        mirror(exit=N_LAYERS + 1)


def test_what_is_prepared_for() -> None:
    """Two slots, 5 and 6 drafted; the exit says 7 where 5 stands, and is alone in that."""
    exit_ = Guess([[(7, 0.9), (5, 0.1)], [(6, 1.0)], [(8, 1.0)]], [0.1, 1.0])
    own = Guess([[(5, 0.8), (7, 0.1), (1, 0.1)], [(6, 0.6), (2, 0.4)], [(3, 0.7), (4, 0.3)]], [0.8, 0.6])
    alone = choose([5, 6], [(exit_, 1.0), (own, 0.0)], 2, 8)
    assert alone[:2] == [(0, 7), (2, 8)]
    lightly = choose([5, 6], [(exit_, 0.05), (own, 0.95)], 1, 8)
    assert lightly == [(2, 3), (1, 2), (0, 7)]
    assert choose([5, 6], [(exit_, 0.05), (own, 0.95)], 1, 1) == [(2, 3)], (
        "the exit's favourite is not the one"
    )
    assert choose([5, 6], [(exit_, 0.95), (own, 0.05)], 1, 1) == [(0, 7)]
    assert choose([5, 6], [(exit_, 0.5), (own, 0.5)], 0, 8) == []


def test_trust_of_one_is_the_exit_alone_and_of_none_the_draft_alone() -> None:
    """Keys change with it, and nothing else."""
    keys = {}
    for trust in (0.0, 0.05, 1.0):
        tokens, _, events = run(shared_lm(), mirror(trust=trust, branches=20), ask(2))
        assert [tuple(row) for row in tokens] == list(plain_tokens(n=2))
        keys[trust] = [event.keys for event in events if isinstance(event, Branched)]
    assert keys[0.0] != keys[1.0]
    deeper = [event.keys for event in run(shared_lm(), mirror(trust=0.0, exit=1, branches=20), ask(2))[2]
              if isinstance(event, Branched)]  # fmt: skip
    assert deeper == keys[0.0], "where the exit is does not matter then"


@pytest.mark.parametrize(("trust", "asked"), [(0.0, False), (0.05, True)])
def test_an_exit_nobody_trusts_is_not_read_out(
    trust: float, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    right = LM.segment

    def segment(self: LM, cache: SlotCache, inputs: Any, rows: range, start: int, *rest: Any) -> torch.Tensor:
        starts.append(start)
        return right(self, cache, inputs, rows, start, *rest)

    monkeypatch.setattr(LM, "segment", segment)
    run(shared_lm(), mirror(trust=trust), ask(1))
    assert (N_LAYERS in starts) is asked


# Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("overlap", ["none", "thread"])
@pytest.mark.parametrize(("candidates", "exit_"), [(0, 1), (1, 1), (4, N_LAYERS // 2), (4, N_LAYERS)])
def test_with_streams_output_is_plain_decodings(
    candidates: int, exit_: int, overlap: str, batch_size: int
) -> None:
    one = mirror(draft=streaming_lm(), exit=exit_, candidates=candidates, overlap=overlap, draft_tokens=5)
    tokens, _, events = run(shared_lm(), one, ask(4), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=4))
    assert bool(hits(events)) is bool(candidates)
    assert max(accepted for *_, accepted in rounds(events)) > 3  # past the first forward's


@pytest.mark.parametrize(("law", "accept"), LAWS, ids=["greedy", "coupled", "rejection"])
@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
def test_with_streams_a_hit_is_what_drafting_after_the_fact_gives(
    trimmed: bool, law: Law, accept: str
) -> None:
    settings: Any = {"draft": streaming_lm(trimmed), "draft_tokens": 5}
    assert compared(law, accept, **settings).wrong == 0
    one = draft_model(shared_lm(), streaming_lm(trimmed), law=law, accept=accept, draft_tokens=5)
    known: Any = {"law": law, "accept": accept}
    theirs = run(shared_lm(), one, ask(3, NEW), **known)
    ours = run(shared_lm(), mirror(**settings, **known), ask(3, NEW), **known)
    assert (ours[0], rounds(ours[2])) == (theirs[0], rounds(theirs[2]))


def no_streams_in_branches(patch: pytest.MonkeyPatch) -> None:
    """Branches are written a token a forward: sensible drafts, but not those drafting now would give."""
    right = Writer._grow

    def grow(self: Writer, *given: Any) -> None:
        self._lm = replace(self._lm, streams=None)
        right(self, *given)
        self._lm = streaming_lm()

    patch.setattr(Writer, "_grow", grow)


def a_branch_that_overlooks_its_last_tokens(patch: pytest.MonkeyPatch) -> None:
    right = Writer._next

    def blinkered(self: Writer, columns: int, fed: int) -> Any:
        tokens, tree = right(self, columns, fed)
        if fed:
            tree.sight[:, :, -columns:] = torch.eye(columns, dtype=torch.bool)
        return tokens, tree

    patch.setattr(Writer, "_next", blinkered)


@pytest.mark.parametrize(
    "plant",
    [no_streams_in_branches, a_branch_that_overlooks_its_last_tokens],
    ids=lambda plant: f"planted-{plant.__name__}",
)
def test_a_bug_in_streams_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert compared(*LAWS[2], draft=streaming_lm(), draft_tokens=8).wrong


# Threads: both orders, by force ---------------------------------------------------------------------------------


def branches_first(patch: pytest.MonkeyPatch) -> None:
    right = InThread.start

    def start(self: InThread, *args: Any) -> None:
        right(self, *args)
        assert self._running is not None
        self._running.result()

    patch.setattr(InThread, "start", start)


def target_first(patch: pytest.MonkeyPatch) -> None:
    met = threading.Event()
    right_branch, right_meet = InThread._branch, InThread.meet

    def branch(self: InThread, *args: Any) -> float:
        met.wait()
        met.clear()
        return right_branch(self, *args)

    def meet(self: InThread, rows: Sequence[Row], verdicts: Sequence[Key | None]) -> Met:
        met.set()
        return right_meet(self, rows, verdicts)

    patch.setattr(InThread, "_branch", branch)
    patch.setattr(InThread, "meet", meet)


@pytest.mark.parametrize("order", [branches_first, target_first])
def test_whoever_is_first_the_rounds_are_the_same(
    order: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    law, accept = LAWS[2]
    asked = [Request(one.prompt, 8, seed=seed) for seed in range(10) for one in ask(2)]
    in_turn = run(shared_lm(), mirror(law=law, accept=accept), asked, batch_size=4, law=law, accept=accept)
    order(monkeypatch)
    beside = mirror(law=law, accept=accept, overlap="thread")
    tokens, _, events = run(shared_lm(), beside, asked, batch_size=4, law=law, accept=accept)
    assert tokens == in_turn[0]
    assert rounds(events) == rounds(in_turn[2])
    assert hits(events) == hits(in_turn[2])


def test_only_drafting_in_turn_is_modelled() -> None:
    for overlap, modelled in (("none", True), ("thread", False)):
        _, _, events = run(shared_lm(), mirror(overlap=overlap), ask(1))
        times = [event for event in events if isinstance(event, Mirrored)]
        assert times
        assert all((event.modelled_s is not None) is modelled for event in times)
        assert all(event.waited_s <= event.ahead_s for event in times)


# Planted bugs ----------------------------------------------------------------------------------------------------


def key_off_by_one(patch: pytest.MonkeyPatch) -> None:
    right = Mirror._verdict

    def verdict(self: Mirror, slot: int, row: Row, accepted: int) -> Key | None:
        found = right(self, slot, row, accepted)
        keys = self._writer.keys[slot]
        return next((key for key in keys if found and key[0] == found[0] - 1), None)

    patch.setattr(Mirror, "_verdict", verdict)


def cache_left_as_it_was(patch: pytest.MonkeyPatch) -> None:
    """The branch's tokens count as read, but its keys and values stay where they were written."""
    patch.setattr(
        "specctl.models.cache.SlotCache.gather", lambda self, row, slots, at: self.commit(row, len(slots))
    )


def cache_not_truncated(patch: pytest.MonkeyPatch) -> None:
    """One slot of the rejected draft stays in front of the branch."""
    right = SlotCache.gather
    patch.setattr(SlotCache, "gather", lambda self, row, slots, at: right(self, row, slots, at + 1))


def law_of_another_branch(patch: pytest.MonkeyPatch) -> None:
    right = Writer._adopt

    def adopt(self: Writer, slot: int, twig: Twig) -> Branch:
        others = [one for one in self._twigs[slot] if one is not twig and len(one.laws) >= len(twig.laws)]
        if others:
            twig.laws = others[0].laws[: len(twig.laws)]
        return right(self, slot, twig)

    patch.setattr(Writer, "_adopt", adopt)


def branches_see_each_other(patch: pytest.MonkeyPatch) -> None:
    right = Writer._next

    def blurred(self: Writer, columns: int, fed: int) -> Any:
        tokens, tree = right(self, columns, fed)
        tree.sight[:, :, -columns:] = True
        return tokens, tree

    patch.setattr(Writer, "_next", blurred)


def noise_of_another_place(patch: pytest.MonkeyPatch) -> None:
    """A branch's first token is drawn as if it stood one further on."""
    right = Writer._draw

    def draw(self: Writer, logits: torch.Tensor, ids: Sequence[list[int]], rows: Sequence[Row]) -> Any:
        return right(self, logits, [[*one, 0] for one in ids] if self._twigs else ids, rows)

    patch.setattr(Writer, "_draw", draw)


BUGS = [
    key_off_by_one,
    cache_left_as_it_was,
    cache_not_truncated,
    law_of_another_branch,
    branches_see_each_other,
    noise_of_another_place,
]


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: f"planted-{plant.__name__}")
def test_a_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    law, accept = LAWS[2]
    try:
        one = compared(law, accept)
    except (IndexError, RuntimeError, ValueError):
        return
    assert one.wrong
