"""Where an answer ends does not depend on how its tokens came: every placement in blocks up to 5 is tried."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from specctl.decode.finish import Ending, Limits, Render, finish

EOS, OTHER_EOS = 0, 1
WORDS = {EOS: "", OTHER_EOS: "", 2: "x", 3: "S", 4: "T", 5: "-ST", 6: "TS", 7: "U"}
STOP = ("ST", "TTT")
LONGEST = 5

Judge = Callable[[Sequence[int], Sequence[int], Limits, Render], Ending]


def render(tokens: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


def limits(cap: int = 99, room: int = 99, stop: tuple[str, ...] = STOP) -> Limits:
    return Limits(frozenset({EOS, OTHER_EOS}), cap, room, stop)


def one_at_a_time(tokens: Sequence[int], given: Limits) -> Ending:
    """The definition: look at the whole answer behind each token; an end beats a cap, a cap the context."""
    for n in range(1, len(tokens) + 1):
        text = render(tokens[:n])
        if tokens[n - 1] in given.eos or any(one in text for one in given.stop):
            return Ending(n, "stop")
        if n == given.max_new_tokens:
            return Ending(n, "length")
        if n == given.room:
            return Ending(n, "context")
    return Ending(len(tokens), None)


def disagreements(judge: Judge, given: Limits, words: Sequence[int]) -> int:
    """Over all answers up to five tokens and all places a block border can be before their last block."""
    wrong = 0
    for size in range(1, LONGEST + 1):
        for tokens in itertools.product(words, repeat=size):
            expected = one_at_a_time(tokens, given)
            for border in range(size):
                if expected.reason is not None and border >= expected.kept:
                    break  # the answer was over before this block
                ending = judge(tokens[:border], tokens[border:], given, render)
                wrong += (ending.kept + border, ending.reason) != (expected.kept, expected.reason)
    return wrong


PLACES = {
    "no-limit": limits(),
    "cap-1": limits(cap=1),
    "cap-3": limits(cap=3),
    "room-2": limits(room=2),
    "cap-and-room-4": limits(cap=4, room=4),
    "room-before-cap": limits(cap=4, room=3),
}


@pytest.mark.parametrize("name", list(PLACES))
def test_blocks_end_where_single_tokens_would(name: str) -> None:
    """Ends of sequence (two ids), stop strings in one token, across two and three, across a block's border."""
    assert disagreements(finish, PLACES[name], (EOS, OTHER_EOS, 2, 3, 4, 5, 6)) == 0


@pytest.mark.parametrize("stop", [(), ("U",), ("xU", "Ux"), ("STU",)])
def test_other_stop_strings(stop: tuple[str, ...]) -> None:
    assert disagreements(finish, limits(cap=5, stop=stop), (EOS, 2, 3, 4, 7)) == 0


# Planted bugs -------------------------------------------------------------------------------------------------


def only_the_last_token_ends(
    done: Sequence[int], block: Sequence[int], given: Limits, show: Render
) -> Ending:
    ending = finish(done, block, given, show)
    return ending if ending.kept == len(block) else Ending(len(block), None)


def first_eos_only(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    some = Limits(frozenset({EOS}), given.max_new_tokens, given.room, given.stop)
    return finish(done, block, some, show)


def sees_the_block_only(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    """A stop string that began in an earlier block is missed."""
    return finish([2] * len(done), block, given, show)


def sees_each_token_only(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    return finish(done, block, given, lambda tokens: show(tokens[-1:]))


def cap_beats_the_end(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    ending = finish(done, block, given, show)
    return Ending(ending.kept, "length" if len(done) + ending.kept == given.max_new_tokens else ending.reason)


def cap_cuts_first(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    """The block is cut at the cap before anything in it is looked at."""
    left = given.max_new_tokens - len(done)
    return Ending(left, "length") if len(block) >= left else finish(done, block, given, show)


def counts_rounds(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    """The cap is only looked at between blocks, so an answer runs over it."""
    ending = finish(done, block, Limits(given.eos, 99, given.room, given.stop), show)
    over = len(done) + ending.kept >= given.max_new_tokens
    return Ending(ending.kept, ending.reason or ("length" if over else None))


def drops_the_end(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    ending = finish(done, block, given, show)
    return Ending(ending.kept - 1, "stop") if ending.reason == "stop" else ending


def keeps_one_more(done: Sequence[int], block: Sequence[int], given: Limits, show: Render) -> Ending:
    ending = finish(done, block, given, show)
    return Ending(min(ending.kept + 1, len(block)), ending.reason)


@pytest.mark.parametrize(
    "broken",
    [
        only_the_last_token_ends,
        first_eos_only,
        sees_the_block_only,
        sees_each_token_only,
        cap_beats_the_end,
        cap_cuts_first,
        counts_rounds,
        drops_the_end,
        keeps_one_more,
    ],
    ids=lambda broken: f"planted-{broken.__name__}",
)
def test_a_broken_rule_is_seen(broken: Judge) -> None:
    assert disagreements(broken, PLACES["cap-3"], (EOS, OTHER_EOS, 2, 3, 4)) > 0


# Long answers: only a tail is rendered --------------------------------------------------------------------------


def test_a_long_stop_string_is_found_behind_a_long_answer() -> None:
    stop = "x" * 40 + "S"
    given = limits(9999, 9999, (stop,))
    done = [3] * 500 + [2] * 40
    assert finish(done, [3], given, render) == Ending(1, "stop")
    assert finish(done[:-1], [3], given, render) == Ending(1, None)


def test_the_work_does_not_grow_with_the_answer() -> None:
    seen: list[int] = []

    def counting(tokens: Sequence[int]) -> str:
        seen.append(len(tokens))
        return render(tokens)

    finish([2] * 5000, [2, 2, 2], limits(9999, 9999), counting)
    assert max(seen) < 100


def test_special_tokens_between_the_parts_of_a_stop_string_do_not_hide_it() -> None:
    """Tokens without text stand in the tail as well; some of them must not push the string out of it."""
    silent = {8: ""}
    given = limits(stop=("ST",))
    words = WORDS | silent
    assert finish([3, *[8] * 10], [4], given, lambda ids: "".join(words[i] for i in ids)) == Ending(1, "stop")
