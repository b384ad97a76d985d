"""Tokens and figures as styled text. Meaning is never by colour alone: strike, bold and words say it too."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from specctl.chat.fold import Round, Run
from specctl.cli.safe_text import safe_line

_BLOCKS = "▁▂▃▄▅▆▇█"
ACCEPTED = "$text-success on $success-muted"
REJECTED = "strike $text-error on $error-muted"
BONUS = "bold $text-primary on $primary-muted"
PENDING = "italic dim"
MANY_ROUNDS = 50
_WIDEST_TOKEN = 24


def chip(piece: str, style: str) -> Content:
    """One token; blanks at its ends and line ends are visible."""
    text = safe_line(piece)
    text = text if len(text) <= _WIDEST_TOKEN else text[: _WIDEST_TOKEN - 1] + "…"
    body = text.strip(" ")
    lead = len(text) - len(text.lstrip(" "))
    trail = len(text) - lead - len(body)
    return Content.styled("␣" * lead + body + "␣" * trail or "∅", style)


def chips(one: Round) -> list[Content]:
    """A round's tokens with the verdict on each."""
    if one.accepted is None:
        return [chip(piece, PENDING) for piece in one.pieces] or [Content.styled("…", PENDING)]
    styles = [ACCEPTED] * one.accepted + [REJECTED] * (len(one.pieces) - one.accepted)
    shown = [*(chip(p, s) for p, s in zip(one.pieces, styles, strict=True)), chip(one.bonus, BONUS)]
    if one.branches:
        said = "" if one.hit is None else " hit" if one.hit else " miss"
        shown.append(Content.styled(f"‹{one.branches} ahead{said}›", "$text-muted"))
    return shown


def verdict(one: Round) -> str:
    if one.accepted is None:
        return "?"
    return f"{one.accepted}/{len(one.pieces)}" if one.pieces else "–"


def round_lines(one: Round, width: int, rows: int = 1) -> list[Content]:
    """A round as lines of at most `width` cells: number, tokens, accepted of drafted."""
    name = f"{one.row + 1}:{one.number}" if rows > 1 else str(one.number)
    room = max(width - 11, 8)
    lines: list[list[Content]] = [[]]
    used = 0
    for item in chips(one):
        size = item.cell_length
        if lines[-1] and used + 1 + size > room:
            lines.append([])
            used = 0
        used += size + (1 if lines[-1] else 0)
        lines[-1].append(item)
    drawn = []
    for i, items in enumerate(lines):
        body = Content(" ").join(items).truncate(room, ellipsis=True)
        lead = Content.styled(f"{name:>4} " if i == 0 else "     ", "$text-muted")
        tail = Content.styled(f" {verdict(one):>5}" if i == 0 else "", "$text-muted")
        drawn.append(lead + body.pad_right(max(room - body.cell_length, 0)) + tail)
    return drawn


def sparkline(values: Sequence[int], width: int) -> str:
    """The last values as blocks; the lowest block is 0."""
    shown = list(values)[-width:]
    top = max([*shown, 1])
    return "".join(_BLOCKS[round(value * (len(_BLOCKS) - 1) / top)] for value in shown)


def bar(share: float, width: int) -> str:
    filled = round(min(max(share, 0.0), 1.0) * width)
    return "█" * filled + "░" * (width - filled)


def rate(accepted: int, drafted: int, rounds: int) -> str:
    """A percentage where there is enough to speak of one, else the counts."""
    if rounds >= MANY_ROUNDS and drafted:
        return f"{accepted / drafted:.0%}"
    return f"{accepted}/{drafted}"


def speedup(run: Run, baseline: float | None) -> str:
    """The speed against plain decoding in words; an estimate is called one."""
    speed = run.stats.tokens_per_s
    if not speed or not run.stats.rounds:
        return ""
    if not run.stats.drafted:
        return "nothing drafted"
    ratio = speed / baseline if baseline else run.estimated_speedup
    if ratio is None:
        return ""
    text = f"{ratio:.2f}× plain" + ("" if baseline else " (est.)")
    return text + (", slower than plain decoding" if ratio < 0.98 else "")
