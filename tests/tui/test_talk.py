"""The conversation's rows: Markdown drawn, the same however the text came in, and copied as it was written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Offset
from textual.selection import Selection

from specctl.tui import talk
from specctl.tui.markdown import Row, draw
from specctl.tui.pieces import Piece
from specctl.tui.talk import Answer, Talk

TEXT = """\
# Rain

Water **rises**, cools and *falls*: see [the page](https://example.org/a) or https://example.org.
It is `H2O`.\\
Next line, <b>as it is</b> ~~not~~.

1. one
2. two
   - deep

     more of it
   - deeper
3. three

- loose

- items
* another list

> said
> - and listed

```python
def rain(drops):
    return drops  # all of them
```

    indented code

| what | how much |
|------|:--------:|
| rain | much |
| snow | *none*, at least not here where it never has been cold enough for it |

Setext
------

---
end
"""


class Alone(App[None]):
    def compose(self) -> ComposeResult:
        yield Talk()


def plain(rows: list[Row]) -> list[str]:
    return [row.content.plain.rstrip() for row in rows]


def with_talk(do: Callable[[Talk, Any], Any], size: tuple[int, int] = (60, 20)) -> Any:
    async def run() -> Any:
        app = Alone()
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            found = do(app.query_one(Talk), pilot)
            return await found if asyncio.iscoroutine(found) else found

    return asyncio.run(run())


def test_markdown_is_drawn() -> None:
    assert plain(draw(TEXT, 60)) == [
        "Rain",
        "",
        "Water rises, cools and falls: see the page",
        "(https://example.org/a) or https://example.org. It is H2O.",
        "Next line, <b>as it is</b> not.",
        "",
        "1. one",
        "2. two",
        "   ◦ deep",
        "",
        "     more of it",
        "   ◦ deeper",
        "3. three",
        "",
        "• loose",
        "",
        "• items",
        "",
        "• another list",
        "",
        "▌ said",
        "▌ • and listed",
        "",
        "  def rain(drops):",
        "      return drops  # all of them",
        "",
        "  indented code",
        "",
        "what │ how much",
        "─────┼" + "─" * 54,
        "rain │ much",
        "snow │ none, at least not here where it never has been cold",
        "     │ enough for it",
        "",
        "Setext",
        "",
        "─" * 60,
        "",
        "end",
    ]


@pytest.mark.parametrize("width", [1, 7, 20, 61])
def test_no_row_is_wider_than_the_screen_and_no_word_is_lost(width: int) -> None:
    rows = draw("word " * 40 + "\n\n```\n" + "x" * 200 + "\n```\n\n- " + "日本" * 50, width)
    assert max(row.content.cell_length for row in rows) <= max(width, 8) + 2  # of the bullet
    text = "".join(row.content.plain for row in rows)
    assert text.count("x") == 200
    assert text.count("日") == 50


def streamed(text: str, seed: int) -> tuple[list[Row], list[Row]]:
    """The rows of a text that came in bits, and those of the whole of it; a notice stands below either."""

    def do(one: Talk, pilot: Any) -> tuple[list[Row], list[Row]]:
        chance = random.Random(seed)
        answer = one.answer()
        one.say("a notice")
        rest = text
        while rest:
            size = chance.choice([1, 2, 5, 30])
            answer.add(rest[:size])
            rest = rest[size:]
        assert answer.text == text
        grown = list(one._rows)
        one.wipe()
        one.answer().replace(text)
        one.say("a notice")
        return grown, one._rows

    return with_talk(do)  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_matter_how_a_text_came_in(seed: int) -> None:
    blocks = TEXT.split("\n\n")
    random.Random(seed).shuffle(blocks)
    grown, whole = streamed("\n\n".join(blocks), seed)
    assert plain(grown) == plain(whole)
    assert [row.content.spans for row in grown] == [row.content.spans for row in whole]
    assert plain(whole)[-2:] == ["a notice", ""]


def test_an_early_cut_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a block counts as finished with its last line."""

    def early(text: str, joint: Any = "gap") -> list[Piece]:
        *done, last = text.split("\n")
        return [*(Piece(line + "\n", "gap") for line in done), Piece(last, "gap")]

    monkeypatch.setattr(talk, "pieces", early)
    monkeypatch.setattr(Answer, "replace", Answer.add)
    grown, _ = streamed(TEXT, 0)
    assert plain(grown)[:-2] != plain(draw(TEXT, 57))


def test_only_what_grows_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(text: str, width: int, **options: Any) -> list[Row]:
        drawn.append(len(text))
        return draw(text, width, **options)

    monkeypatch.setattr(talk, "draw", counted)
    with_talk(lambda one, _: [one.answer().add("a word or two\n\n") for _ in range(2)])

    def do(one: Talk, pilot: Any) -> None:
        for text in ("a word or two\n\n" * 5, "an endless line " * 5, "```\n" + "code\n" * 20):
            answer = one.answer()
            for _ in range(100):
                answer.add(text)

    with_talk(do)
    assert max(drawn) <= 2 * talk.CHARS + 200


def test_another_width_draws_all_of_it_anew() -> None:
    async def do(one: Talk, pilot: Any) -> None:
        answer = one.answer()
        answer.add(TEXT)
        one.say("a notice")
        await pilot.resize_terminal(33, 20)
        await pilot.pause()
        assert plain(one._rows)[: answer.height - 1] == plain(draw(TEXT, one.room))
        assert one.parts[-1].at == answer.height
        answer.add("more")
        assert plain(one._rows)[-4:] == ["end more", "", "a notice", ""]

    with_talk(do)


def test_it_stays_at_its_end_when_it_has_less_room() -> None:
    async def do(one: Talk, pilot: Any) -> None:
        for _ in range(20):
            one.say("word " * 30)
        await pilot.resize_terminal(60, 10)
        await pilot.pause()
        assert one.scroll_y == one.max_scroll_y > 0

    with_talk(do)


def test_a_scroll_bar_takes_no_room_from_the_text() -> None:
    async def do(one: Talk, pilot: Any) -> None:
        room = one.room
        for _ in range(20):
            one.say("word " * 30)
        await pilot.pause()
        assert one.show_vertical_scrollbar
        assert one.room == room

    with_talk(do)


def test_what_is_selected_is_copied_without_the_wraps() -> None:
    async def do(one: Talk, pilot: Any) -> None:
        one.say("word " * 30)
        one.answer().add("```\n" + "x" * 100 + "\n```\n")
        await pilot.pause()
        assert len(one._rows) > 6
        whole = Selection(None, None)
        assert one.get_selection(whole)[0].split() == [*["word"] * 30, "x" * 100]
        assert one.get_selection(Selection(Offset(2, 0), Offset(4, 0)))[0] == "rd"
        pilot.app.screen.selections = {one: Selection(Offset(0, 0), Offset(4, 0))}
        await pilot.pause()
        chosen, other = one._strip(0), one._strip(1)
        assert {segment.style.bgcolor for segment in chosen} - {segment.style.bgcolor for segment in other}  # type: ignore[union-attr]

    with_talk(do)
