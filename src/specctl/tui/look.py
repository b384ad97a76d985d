"""Tokens and figures as styled text. Meaning is never by colour alone: strike, bold and words say it too."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style as Colours
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from specctl.chat.fold import Round, Run
from specctl.cli.safe_text import safe_line
from specctl.decode.stats import SLOWER

_BLOCKS = "▁▂▃▄▅▆▇█"
ACCEPTED = "$text-success on $success-muted"
REJECTED = "strike $text-error on $error-muted"
BONUS = "bold $text-primary on $primary-muted"
PENDING = "italic dim"
QUIET = "$foreground 60%"
MANY_ROUNDS = 50
_WIDEST_TOKEN = 24
_CHANCE = 3  # cells of a probability
_MARGINS = 11  # cells of a round's number and verdict
NARROWEST = _MARGINS + 8
"""Cells a round's line has at least."""


def parsed(style: Style | str) -> Style:
    """A style with the theme's own names in it."""
    return style if isinstance(style, Style) else Style.parse(style)


def coloured(widget: Widget, style: Style) -> Colours:
    """A style as the terminal shows it, in fewer colours or none."""
    drawn = [Segment(" ", style.rich_style)]
    for one in widget.get_line_filters():
        drawn = one.apply(drawn, widget.background_colors[1])
    return drawn[0].style or Colours.null()


Chip = tuple[str, str]
"""What stands for a token, and its style."""

Line = list[Chip]
"""A row of the screen, its blanks among the items."""


def cells(text: str) -> int:
    """How many cells a text takes that has no control characters."""
    return len(text) if text.isascii() else cell_len(text)


def chip(piece: str, style: str) -> Chip:
    """One token; blanks at its ends and line ends are visible."""
    text = safe_line(piece)
    text = text if len(text) <= _WIDEST_TOKEN else text[: _WIDEST_TOKEN - 1] + "…"
    body = text.strip(" ")
    lead = len(text) - len(text.lstrip(" "))
    trail = len(text) - lead - len(body)
    return "␣" * lead + body + "␣" * trail or "∅", style


def chips(one: Round) -> list[Chip]:
    """A round's tokens with the verdict on each."""
    if one.accepted is None:
        return [chip(piece, PENDING) for piece in one.pieces] or [("…", PENDING)]
    styles = [ACCEPTED] * one.accepted + [REJECTED] * (len(one.pieces) - one.accepted)
    return [*(chip(p, s) for p, s in zip(one.pieces, styles, strict=True)), chip(one.bonus, BONUS)]


def verdict(one: Round) -> str:
    if one.accepted is None:
        return "?"
    return f"{one.accepted}/{len(one.pieces)}" if one.pieces else "–"


def chance(p: float | None) -> str:
    """A probability in three cells: `.07`, `1.0`."""
    if p is None:
        return ""
    return "1.0" if p >= 0.995 else f"{p:.2f}"[1:]


def round_lines(one: Round, width: int, rows: int = 1) -> list[Line]:
    """A round as lines of `width` cells, or `NARROWEST`: number, tokens, accepted of drafted.

    Below the tokens their probabilities, if the round has them; a method's own mark comes last.
    """
    name = f"{one.row + 1}:{one.number}" if rows > 1 else str(one.number)
    room = max(width, NARROWEST) - _MARGINS
    drawn: list[Line] = []
    for items in _wrapped(one, room):
        first = not drawn
        tokens = [(token, own, size) for token, own, size, _, _ in items]
        drawn.append(_line(name if first else "", tokens, verdict(one) if first else "", room))
        for label, values in (("p", [p for *_, p, _ in items]), ("q", [q for *_, q in items])):
            if any(value is not None for value in values):
                said = [
                    (chance(value), size) for value, (_, _, size, _, _) in zip(values, items, strict=True)
                ]
                below = [((text, QUIET), len(text), size) for text, size in said]
                drawn.append(_line(label, below, "", room))
    if one.mark:
        drawn.append(_line("", _marked(one, room), "", room))
    return drawn


def _marked(one: Round, room: int) -> list[tuple[Chip, int, int]]:
    """A method's mark, and as far as there is room the verdicts it was ready for: tokens accepted, the one behind
    them. First and in its own style the one that came."""
    mark = _shortened(f"↳ {safe_line(one.mark)}", room)
    items = [((mark, QUIET), cells(mark), cells(mark))]
    free = room - cells(mark)
    came = (one.accepted, one.bonus)
    for n, piece in sorted(one.ready, key=lambda verdict: verdict != came):
        number, token = f" {n}", chip(piece, BONUS if (n, piece) == came else QUIET)
        free -= cells(number) + cells(token[0]) + 2
        if free < 0:
            break
        items += [((number, QUIET), cells(number), cells(number)), (token, cells(token[0]), cells(token[0]))]
    return items


Cell = tuple[Chip, int, int, float | None, float | None]
"""A token, the cells it takes, those that are kept for it, p and q."""


def _wrapped(one: Round, room: int) -> list[list[Cell]]:
    """A round's tokens in lines of at most `room` cells."""
    least = _CHANCE if one.p or one.q else 1
    lines: list[list[Cell]] = [[]]
    used = 0
    for (text, style), p, q in zip_longest(chips(one), one.p, one.q):
        item = (_shortened(text, room), style)
        own = cells(item[0])
        size = max(own, least)
        if lines[-1] and used + 1 + size > room:
            lines.append([])
            used = 0
        used += size + (1 if lines[-1] else 0)
        lines[-1].append((item, own, size, p, q))
    return lines


def _line(lead: str, items: Sequence[tuple[Chip, int, int]], tail: str, room: int) -> Line:
    """Items with the cells they take and those kept for them, a blank after each, all of them in `room`."""
    line = [(" " * (4 - len(lead)), ""), (f"{lead} ", QUIET)]
    free = room + 1
    for item, own, size in items:
        line += [item, (" " * (size - own + 1), "")]
        free -= size + 1
    return [*line, (" " * (free + 5 - len(tail)), ""), (tail, QUIET)]


def _shortened(text: str, room: int) -> str:
    return text if cells(text) <= room else set_cell_size(text, room - 1) + "…"


def sparkline(values: Sequence[int], width: int) -> str:
    """The last values as blocks; the lowest block is 0."""
    shown = list(values)[-width:]
    top = max([*shown, 1])
    return "".join(_BLOCKS[round(value * (len(_BLOCKS) - 1) / top)] for value in shown)


def bar(share: float, width: int, style: str = "$success") -> Content:
    """A filled part and the rest, told apart by weight as well."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return Content.assemble(("━" * filled, style), ("─" * (width - filled), "$foreground 25%"))


def rate(accepted: int, drafted: int, rounds: int) -> str:
    """A percentage where there is enough to speak of one, else the counts."""
    if rounds >= MANY_ROUNDS and drafted:
        return f"{accepted / drafted:.0%}"
    return f"{accepted}/{drafted}"


def ratio(run: Run, baseline: float | None) -> float | None:
    """The speed over plain decoding's, estimated where there is no `baseline`; None where nothing was drafted."""
    speed = run.stats.tokens_per_s
    if not speed or not run.stats.drafted:
        return None
    return speed / baseline if baseline else run.stats.estimated_speedup


def speedup(run: Run, baseline: float | None) -> str:
    """`ratio` in words; an estimate is called one."""
    if run.stats.rounds and not run.stats.drafted:
        return "nothing drafted"
    found = ratio(run, baseline)
    if found is None:
        return ""
    return f"{found:.2f}× plain" + ("" if baseline else " (est.)")


def is_slower(run: Run, baseline: float | None) -> bool:
    found = ratio(run, baseline)
    return found is not None and found < SLOWER


def table(rows: Sequence[tuple[str, str]], width: int) -> str:
    """Names and what they mean, the second column wrapped within `width` cells."""
    name = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, max(width - name, 16)) or [""]
        lines += [left.ljust(name) + first, *(" " * name + line for line in more)]
    return "\n".join(lines)
