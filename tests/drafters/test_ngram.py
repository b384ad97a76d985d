"""N-gram drafting: what is looked up, how far it is copied, and that its index is right at any time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fakes import Spy, ask, ngram, plain_tokens, run, shared_lm
from specctl.decode.draft import Request, Row
from specctl.drafters import ngram as ngram_module
from specctl.drafters.ngram import Agreement, Guess, Lookup, Odds, most_frequent
from specctl.models.lm import LM


def continuation(ids: list[int], limit: int = 4, shortest: int = 1, longest: int = 3) -> list[int]:
    seen = Lookup(shortest, longest)
    seen.extend(ids)
    return copied(seen, ids, limit)


def copied(seen: Lookup, ids: list[int], limit: int) -> list[int]:
    text = list(ids)
    for _ in range(limit):
        guess = seen.next(text)
        if guess is None:
            break
        text.append(guess.token)
    return text[len(ids) :]


EXAMPLES = {
    "nothing-repeats": ([5, 6, 7, 8], []),
    "one-token": ([5], []),
    "what-followed": ([5, 6, 7, 8, 9, 10, 5], [6, 7, 8, 9]),
    "the-longest-match-wins": ([1, 2, 3, 40, 9, 3, 50, 9, 3, 50, 1, 2, 3], [40, 9, 3, 50]),
    "the-commonest-follower-wins": ([2, 30, 9, 2, 30, 8, 2, 40, 7, 2], [30, 8, 2, 40]),
    "the-latest-wins-among-equals": ([1, 2, 30, 9, 1, 2, 40, 8, 1, 2], [40, 8, 1, 2]),
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
    assert continuation([7, 1, 2, 30, 9, 1, 2, 40, 7, 1, 2], longest=2)[:1] == [40]
    assert continuation([7, 1, 2, 30, 9, 1, 2, 40, 7, 1, 2], longest=3)[:1] == [30]


def test_only_the_latest_places_vote() -> None:
    seen = Lookup(1, 1)
    seen.extend([5, 6] * 40 + [5, 7] * 9 + [5])
    assert seen.next([5]) == Guess(7, 1, Agreement.MOSTLY)


@pytest.mark.parametrize(
    ("ids", "agreement"),
    [
        ([5, 6, 5], Agreement.ONCE),
        ([5, 6, 5, 6, 5], Agreement.ALWAYS),
        ([5, 6, 5, 7, 5, 6, 5], Agreement.MOSTLY),
        ([5, 7, 5, 6, 5], Agreement.SPLIT),
    ],
)
def test_agreement(ids: list[int], agreement: Agreement) -> None:
    seen = Lookup(1, 3)
    seen.extend(ids)
    guess = seen.next(ids[-1:])
    assert guess == Guess(6, 1, agreement)


def test_nothing_is_drafted_behind_an_end_of_sequence() -> None:
    def drafted(ids: list[int], eos: frozenset[int]) -> list[int]:
        drafter = ngram(eos, draft_tokens=4)
        row = Row(0, Request(tuple(ids), 99), ids)
        drafter.begin(row, {})
        return drafter.draft([row], [99]).tokens[0]

    ids = [5, 6, 2, 7, 8] * 5 + [5]
    assert drafted(ids, frozenset({2})) == [6, 2]
    assert drafted(ids, frozenset()) == [6, 2, 7, 8]
    assert drafted([5, 2, 7] * 5 + [5], frozenset({2})) == [2], "the end itself may be right"


def slow(ids: list[int], limit: int, shortest: int, longest: int) -> list[int]:
    """The definition, by looking at every place."""
    text = list(ids)
    for _ in range(limit):
        for size in range(min(longest, len(text)), shortest - 1, -1):
            ends = [end for end in range(size, len(ids)) if ids[end - size : end] == text[-size:]]
            if ends:
                latest = [ids[end] for end in ends[-16:]]
                last = {token: at for at, token in enumerate(latest)}
                text.append(max(last, key=lambda one: (Counter(latest)[one], last[one])))
                break
        else:
            break
    return text[len(ids) :]


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
    assert (wrong[0], wrong[-1]) == (10, 2)
    right = drafted_lengths([99] * 30)
    assert right == sorted(right)
    assert (right[0], right[-1]) == (10, 24)


def drafted_once(ids: list[int], **params: int) -> tuple[list[int], list[float]]:
    drafter = ngram(**params)
    row = Row(0, Request(tuple(ids), 99), ids)
    drafter.begin(row, {})
    draft = drafter.draft([row], [99])
    assert draft.confidence is not None
    return draft.tokens[0], draft.confidence[0]


def test_the_last_token_drafted_is_worth_a_row_and_the_next_is_not() -> None:
    chance = random.Random(1)
    cut = 0
    for _ in range(200):
        ids = [chance.randrange(8) for _ in range(chance.randrange(2, 60))]
        tokens, odds = drafted_once(ids, draft_tokens=24)
        seen, all_right = Lookup(1, 6), 1.0
        seen.extend(ids)
        for one in odds:
            all_right *= one
        assert not tokens or all_right >= 0.07
        following = seen.next([*ids, *tokens])
        if len(tokens) < 24 and following is not None:
            assert all_right * Odds().chance(following) < 0.07
            cut += 1
    assert cut > 50


def test_only_judged_tokens_are_counted() -> None:
    odds = Odds()
    short, long = Guess(7, 1, Agreement.SPLIT), Guess(7, 9, Agreement.ALWAYS)
    odds.count([short, long, long, long], committed=[7, 8])
    assert odds._tries[1][Agreement.SPLIT] == 17
    assert odds._tries[6][Agreement.ALWAYS] == 17, "the wrong token was judged, those behind it were not"
    assert odds._right[1][Agreement.SPLIT] == pytest.approx(16 * 0.13 + 1)
    assert odds._right[6][Agreement.ALWAYS] == pytest.approx(16 * 0.99)
    assert odds._tries[1][Agreement.ALWAYS] == 16


def floored(floor: int, ids: list[int], most: int, **params: int) -> list[int]:
    drafter = ngram(**params)
    drafter._target = LM(shared_lm().module, "floored", row_floor=floor)
    row = Row(0, Request(tuple(ids), 99), ids)
    drafter.begin(row, {})
    return drafter.draft([row], [most]).tokens[0]


def test_what_the_row_floor_leaves_free_is_drafted_however_unlikely() -> None:
    ids = [1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9, 7]
    assert floored(1, ids, 99) == []
    assert floored(2, ids, 99) == [9], "the commonest token"
    assert floored(2, ids, 0) == []
    assert floored(2, ids, 99, min_ngram=2) == [], "one token is no match then, and none still less"
    assert len(floored(4, [*ids, 9], 99)) == 3
    assert len(floored(1, [*ids, 9], 99)) == 1


def test_the_commonest_token_is_a_recent_one() -> None:
    assert most_frequent([5] * 60 + [6] * 48).token == 6


def test_a_planted_count_that_never_changes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odds, "count", lambda *args: None)
    with pytest.raises(AssertionError):
        test_drafts_get_shorter_where_they_are_wrong_and_longer_where_right()


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
