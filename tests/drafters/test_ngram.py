"""N-gram drafting: what is looked up, how far it is copied, and that its index is right at any time."""

from __future__ import annotations

import random

import pytest

from fakes import Spy, ask, ngram, plain_tokens, run, shared_lm
from specctl.decode.draft import Request, Row
from specctl.drafters import ngram as ngram_module
from specctl.drafters.ngram import Lookup, Odds

NO_END: frozenset[int] = frozenset()


def continuation(
    ids: list[int], limit: int = 4, shortest: int = 1, longest: int = 3, eos: frozenset[int] = NO_END
) -> list[int]:
    seen = Lookup(shortest, longest)
    seen.extend(ids)
    return copied(seen, ids, limit, eos)


def copied(seen: Lookup, ids: list[int], limit: int, eos: frozenset[int] = NO_END) -> list[int]:
    _, start = seen.match(ids)
    return ngram_module.continuation(ids, start, limit, eos)


EXAMPLES = {
    "nothing-repeats": ([5, 6, 7, 8], []),
    "one-token": ([5], []),
    "what-followed": ([5, 6, 7, 8, 9, 10, 5], [6, 7, 8, 9]),
    "the-longest-match-wins": ([1, 2, 3, 40, 9, 3, 50, 9, 1, 2, 3], [40, 9, 3, 50]),
    "the-latest-match-wins": ([1, 2, 30, 9, 1, 2, 40, 8, 1, 2], [40, 8, 1, 2]),
    "runs-into-its-own-copy": ([5, 6, 7, 5, 6], [7, 5, 6, 7]),
    "one-token-over-and-over": ([9, 4, 4, 4], [4, 4, 4, 4]),
    "a-match-at-the-very-start": ([8, 1, 2, 3, 8], [1, 2, 3, 8]),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_examples(name: str) -> None:
    ids, expected = EXAMPLES[name]
    assert continuation(ids) == expected


def test_limits() -> None:
    ids = [5, 6, 7, 8, 9, 10, 5]
    assert continuation(ids, limit=0) == []
    assert continuation(ids, limit=2) == [6, 7]
    assert continuation(ids, shortest=2) == [], "one token is no match then"
    assert continuation([7, 1, 2, 30, 9, 1, 2, 40, 7, 1, 2], longest=2) == [40, 7, 1, 2]
    assert continuation([7, 1, 2, 30, 9, 1, 2, 40, 7, 1, 2], longest=3) == [30, 9, 1, 2]


def test_nothing_is_drafted_behind_an_end_of_sequence() -> None:
    ids = [5, 6, 2, 7, 8, 5]
    assert continuation(ids, eos=frozenset({2})) == [6, 2]
    assert continuation(ids) == [6, 2, 7, 8]
    assert continuation([5, 2, 7, 5], eos=frozenset({2})) == [2], "the end itself may be right"
    assert continuation([2, 6, 2], eos=frozenset({2})) == [6, 2], (
        "an end the prompt holds is no end of the answer"
    )


def slow(ids: list[int], limit: int, shortest: int, longest: int) -> list[int]:
    """The definition, by looking at every place."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(ids) - 1, size - 1, -1):
            if size <= len(ids) and ids[end - size : end] == ids[-size:]:
                copied = list(ids)
                for i in range(limit):
                    copied.append(copied[end + i])
                return copied[len(ids) :]
    return []


def disagreements() -> int:
    """Texts of few words, growing by some tokens at a time, against the definition and a rebuilt index."""
    chance = random.Random(0)
    wrong = 0
    for _ in range(150):
        shortest = chance.choice([1, 2])
        seen = Lookup(shortest, 3)
        ids: list[int] = []
        while len(ids) < 30:
            ids += [chance.randrange(4) for _ in range(chance.randrange(1, 5))]
            seen.extend(ids)
            drafted = copied(seen, ids, 5)
            wrong += drafted != slow(ids, 5, shortest, 3)
            wrong += drafted != continuation(ids, 5, shortest)
    return wrong


def test_a_growing_index_is_a_rebuilt_one() -> None:
    assert disagreements() == 0


def test_planted_gaps_in_the_index_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    extend = Lookup.extend

    def forgetful(self: Lookup, ids: list[int]) -> None:
        extend(self, ids)
        self._indexed = len(ids) + 1  # the n-gram at the border is never indexed

    monkeypatch.setattr(Lookup, "extend", forgetful)
    assert disagreements() > 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_keep_their_own_index_when_slots_move(batch_size: int) -> None:
    """Nine rows in few slots: each draft is what a fresh lookup in that row's own tokens gives."""
    drafter = ngram(draft_tokens=6)
    spy = Spy(drafter)
    asked = [Request((*one.prompt, 7, 8, 9, 7, 8), 4 + 3 * (i % 4), seed=i) for i, one in enumerate(ask(9))]
    tokens, _, _ = run(shared_lm(), spy, asked, batch_size=batch_size)
    assert tokens == run(shared_lm(), None, asked)[0]
    drafted = 0
    for committed, draft in spy.log:
        for ids, given in zip(committed, draft.tokens, strict=True):
            assert given == continuation(ids, len(given), longest=6)
            drafted += len(given)
    assert drafted > 20


def test_planted_mixed_up_rows_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_module.Ngram, "drop", lambda self, slot: (self._seen.pop(), self._odds.pop()))
    with pytest.raises((AssertionError, IndexError)):
        test_rows_keep_their_own_index_when_slots_move(3)


def drafted_lengths(accepts: list[int]) -> list[int]:
    """Lengths drafted for a text that repeats itself, when this many tokens are accepted each time."""
    drafter = ngram(draft_tokens=24, max_ngram=2)
    row = Row(0, Request((4, 5) * 10, 99), [4, 5] * 10)
    drafter.begin(row, {})
    lengths = []
    for n in accepts:
        draft = drafter.draft([row], [99])
        lengths.append(len(draft.tokens[0]))
        kept = draft.tokens[0][:n]
        after = Row(0, row.request, [*row.ids, *kept, 9])
        drafter.observe([after], None, [len(kept)])  # type: ignore[arg-type]
    return lengths


def test_drafts_get_shorter_where_they_are_wrong_and_longer_where_right() -> None:
    wrong = drafted_lengths([0] * 30)
    assert wrong == sorted(wrong, reverse=True)
    assert (wrong[0], wrong[-1]) == (4, 1)
    right = drafted_lengths([99] * 30)
    assert right == sorted(right)
    assert (right[0], right[-1]) == (4, 24)


def chance_of(odds: Odds, size: int, limit: int) -> float:
    chance = 1.0
    for n in range(limit):
        at = min(size + n, len(odds._tries) - 1)
        chance *= odds._right[at] / odds._tries[at]
    return chance


def test_the_last_token_drafted_is_worth_a_row_and_the_next_is_not() -> None:
    chance = random.Random(1)
    for _ in range(200):
        odds = Odds(chance.randrange(1, 7))
        for _ in range(chance.randrange(60)):
            drafted = chance.randrange(9)
            odds.count(chance.randrange(1, 7), [1] * drafted, [1] * chance.randrange(drafted + 1) + [0])
        size = chance.randrange(1, 7)
        n = odds.worthwhile(size, 40)
        assert chance_of(odds, size, n) >= 0.06
        assert n == 40 or chance_of(odds, size, n + 1) < 0.06


def test_only_judged_tokens_are_counted() -> None:
    odds = Odds(3)
    odds.count(1, drafted=[7, 7, 7, 7, 7], committed=[7, 8])
    assert odds._tries == [8, 9, 9, 8], "the wrong token was judged, those behind it were not"
    odds.count(3, drafted=[7, 7], committed=[7, 7, 8])
    assert odds._tries == [8, 9, 9, 10]
    assert odds._right[3] == pytest.approx(8 * (1 - 0.7**3) + 2)


def test_rounds_without_a_match_change_nothing() -> None:
    drafter = ngram(draft_tokens=8)
    row = Row(0, Request((4, 5) * 10, 99), [4, 5] * 10)
    drafter.begin(row, {})
    first = len(drafter.draft([row], [99]).tokens[0])
    row.ids += [6, 4, 7]
    for end in (8, 9, 10):
        row.ids.append(end)
        assert drafter.draft([row], [99]).tokens == [[]]
        drafter.observe([row], None, [0])  # type: ignore[arg-type]
    row.ids += [4, 5]
    assert len(drafter.draft([row], [99]).tokens[0]) == first


def test_budgets_are_kept() -> None:
    drafter = ngram(draft_tokens=8)
    rows = [Row(i, Request((4, 5) * 10, 99), [4, 5] * 10) for i in range(3)]
    for row in rows:
        drafter.begin(row, {})
    assert [len(tokens) for tokens in drafter.draft(rows, [0, 3, 99]).tokens] == [0, 3, 8]


def test_greedy_output_is_plain() -> None:
    for batch_size in (1, 3):
        tokens, _, _ = run(shared_lm(), ngram(), ask(5), batch_size=batch_size)
        assert [tuple(row) for row in tokens] == list(plain_tokens())
