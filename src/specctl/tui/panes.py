"""The panes beside a conversation: what was drafted, what was accepted, how fast it is."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from time import monotonic

from rich.segment import Segment
from rich.style import Style as Colours
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from specctl.chat.fold import Run
from specctl.cli.safe_text import safe_line
from specctl.tui import look
from specctl.tui.still import Still, Unseen

_MOST_POSITIONS = 8
FIGURES_PER_S = 4


class Pane(Still):
    """A titled box that draws a run. `show` is cheap when nothing changed."""

    can_focus = False
    figures = True

    def __init__(self, title: str, id: str) -> None:
        super().__init__(id=id)
        self.border_title = title
        self._run = Run()
        self._baseline: float | None = None

    def show(self, run: Run, baseline: float | None) -> None:
        self._run, self._baseline = run, baseline
        self.refresh()


class Rounds(Widget):
    """The last rounds of a run, newest at the bottom. What was judged is drawn once."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        self._run = Run()
        self._lines: list[Strip] | None = None
        self._judged: dict[Hashable, list[Strip]] = {}
        self._colours: dict[str, Colours] = {}
        self._size_drawn = Size()

    def show(self, run: Run) -> None:
        self._run, self._lines = run, None
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        if self._lines is None or self._size_drawn != self.size:
            self._lines = self._drawn()
        left, right = crop.column_span
        lines = [self._lines[y] if y < len(self._lines) else self._text("") for y in crop.line_range]
        return lines if right - left == self.size.width else [line.crop(left, right) for line in lines]

    def _drawn(self) -> list[Strip]:
        """As many lines as there is room for."""
        if self._size_drawn != self.size:
            self._size_drawn, self._judged = self.size, {}
        width, height = self.size
        rows = self._run.started.rows if self._run.started else 1
        lines: list[Strip] = []
        kept: dict[Hashable, list[Strip]] = {}
        for one in reversed(self._run.recent):
            key = (
                one.row,
                one.number,
                one.pieces,
                one.accepted,
                one.bonus,
                one.p,
                one.q,
                one.mark,
                one.ready,
            )
            if key not in self._judged:
                self._judged[key] = [self._strip(line) for line in look.round_lines(one, width, rows)]
            kept[key] = self._judged[key]
            lines = kept[key] + lines
            if len(lines) >= height:
                break
        self._judged = kept
        if not lines:
            said = "tokens are shown here as they are drafted and judged"
            lines = [self._text(line) for line in textwrap.wrap(said, max(width, 1))]
        return lines[-height:] + [self._text("")] * (height - len(lines))

    def _strip(self, line: look.Line) -> Strip:
        """`line` is as wide as `look.round_lines` made it."""
        width = self.size.width
        strip = Strip(
            [Segment(text, self._coloured(style)) for text, style in line if text], max(width, look.NARROWEST)
        )
        return strip if width >= look.NARROWEST else strip.crop(0, width)

    def _text(self, text: str) -> Strip:
        return self._strip([(text.ljust(max(self.size.width, look.NARROWEST)), look.QUIET)])

    def _coloured(self, style: str) -> Colours:
        """A style in the colours of the theme in force, or in none. There are few, and each is worked out once."""
        if style not in self._colours:
            self._colours[style] = look.coloured(self, self.visual_style + Style.parse(style))
        return self._colours[style]

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._lines, self._judged, self._colours = None, {}, {}


class DraftPane(Pane):
    figures = False

    def __init__(self) -> None:
        super().__init__("Draft", "draft")

    def compose(self) -> ComposeResult:
        yield Rounds()

    def show(self, run: Run, baseline: float | None) -> None:
        shown = any(one.p or one.q for one in run.recent)
        said = "p: target's, q: drafter's" if shown else "bold: the target's own"
        if said not in str(self.border_subtitle):
            self.border_subtitle = f"struck: rejected · {said}"
        self.query_one(Rounds).show(run)


class AcceptancePane(Pane):
    """How often each position of a draft was accepted, and the last rounds as a line."""

    def __init__(self) -> None:
        super().__init__("Acceptance", "acceptance")
        self._lines = 0

    def show(self, run: Run, baseline: float | None) -> None:
        """As high as it has positions, so that the drafts have the rest."""
        super().show(run, baseline)
        lines = 2 + min(len(run.drafted_at), _MOST_POSITIONS)
        if lines != self._lines:
            self._lines = lines
            self.styles.height = max(lines, 4) + 2

    def render(self) -> Content:
        run, stats = self._run, self._run.stats
        width, height = self.content_size
        if not stats.drafted:
            text = "nothing drafted: the target goes token by token" if stats.rounds else "no rounds yet"
            return Content.styled(text, look.QUIET)
        room = max(width - 14, 4)
        total = look.rate(stats.accepted, stats.drafted, stats.rounds)
        mean = f"{stats.mean_acceptance_length:.2f}"
        head = Content.assemble((total, "bold"), " accepted · mean acceptance length ", (mean, "bold"))
        positions = list(zip(run.accepted_at, run.drafted_at, strict=False))
        fit = max(height - 2, 1)
        shown = positions if len(positions) <= fit else positions[: fit - 1]
        lines = [head]
        for number, (accepted, drafted) in enumerate(shown, 1):
            said = look.rate(accepted, drafted, stats.rounds)
            bar = look.bar(accepted / drafted, room)
            lines.append(Content.assemble((f"{number:>2} ", look.QUIET), bar, f" {said:>9}"))
        if len(shown) < len(positions):
            lines.append(Content.styled(f"   … up to position {len(positions)}", look.QUIET))
        spark = look.sparkline(run.accepted_recently, max(width - 11, 1))
        lines.append(Content.assemble(("per round ", look.QUIET), (spark, "$primary")))
        return Content("\n").join(lines[:height])


class SpeedPane(Pane):
    """Tokens per second, against plain decoding, and where a round's time goes."""

    def __init__(self) -> None:
        super().__init__("Speed, in chat", "speed")

    def render(self) -> Content:
        run, stats = self._run, self._run.stats
        parts = run.round_ms
        if parts is None or not stats.tokens_per_s:
            waiting = "reading the prompt" if run.started and not run.reasons else "no rounds yet"
            return Content.styled(waiting, look.QUIET)
        draft, verify, whole = parts
        width = max(self.content_size.width, 10)
        slow = look.is_slower(run, self._baseline)
        style = "bold $text-warning" if slow else "bold $text-success"
        said = look.speedup(run, self._baseline)
        at = round(draft / whole * width) if whole else 0
        past = min(round((draft + verify) / whole * width), width) if whole else 0
        split = Content.assemble(
            ("▒" * at, "$warning"), ("█" * (past - at), "$primary"), ("░" * (width - past), look.QUIET)
        )
        rest = max(whole - draft - verify, 0)
        return Content("\n").join(
            [
                Content.assemble((f"{stats.tokens_per_s:.1f}", "bold"), " tokens/s  ", (said, style)),
                self._plain(slow),
                split,
                Content(f"▒ draft {draft:.1f} ms  █ verify {verify:.1f} ms  ░ rest {rest:.1f} ms"),
                Content.styled(
                    f"{stats.new_tokens} tokens · {stats.rounds} rounds · prompt {stats.prefill_s:.2f} s",
                    look.QUIET,
                ),
            ]
        )

    def _plain(self, slow: bool) -> Content:
        """The speed compared with."""
        known = f"plain decoding: {self._baseline:.1f} tokens/s" if self._baseline else ""
        if slow:
            text = "slower than plain decoding" + (f" ({self._baseline:.1f} tokens/s)" if known else "")
            return Content.styled(text, "bold $text-warning")
        return Content.styled(known or "plain decoding: not measured", look.QUIET)


class Pulse(Pane):
    """What the panes say in two lines, for terminals too narrow for them."""

    def __init__(self) -> None:
        super().__init__("", "pulse")

    def render(self) -> Content:
        run, stats = self._run, self._run.stats
        width = max(self.content_size.width, 20)
        if not run.recent:
            said = "what is drafted and accepted is shown here; F2 to F4 open panes"
            return Content.styled(f"     {said}", look.QUIET)
        first = look.round_lines(run.recent[-1], width)[0]
        parts = [f"{stats.tokens_per_s:.1f} tokens/s" if stats.tokens_per_s else ""]
        if stats.drafted:
            parts.append(look.rate(stats.accepted, stats.drafted, stats.rounds) + " accepted")
        parts.append(look.speedup(run, self._baseline))
        if look.is_slower(run, self._baseline):
            parts.append("slower than plain")
        said = " · ".join(part for part in parts if part)
        spark = look.sparkline(run.accepted_recently, max(width - len(said) - 8, 1))
        second = Content.assemble((f"     {said}  ", look.QUIET), (spark, "$primary"))
        return Content.assemble(*first, "\n") + second.truncate(width)


class Panes(Vertical, Unseen):
    """The three panes; each can be hidden."""

    _figures_at = 0.0

    def compose(self) -> ComposeResult:
        yield DraftPane()
        yield AcceptancePane()
        yield SpeedPane()

    def show(self, run: Run, baseline: float | None, *, calm: bool = False) -> None:
        """`calm`: more follows soon, and figures need not change more often than one can read them."""
        now = monotonic()
        rests = calm and now < self._figures_at + 1 / FIGURES_PER_S
        if not rests:
            self._figures_at = now
        for pane in self.query(Pane):
            if pane.display and not (rests and pane.figures):
                pane.show(run, baseline)


class Bar(Static, Still):
    """The line at the top: what is in force, and at its right end what is being done."""

    def __init__(self) -> None:
        super().__init__("", id="bar", markup=False)
        self._parts: list[str] = []
        self._doing = ""

    def tell(self, *parts: str) -> None:
        """From the most general to what must not be missed: where it is too narrow, the second gives way."""
        self._parts = [safe_line(part) for part in parts if part]
        self._draw()

    def do(self, what: str) -> None:
        self._doing = safe_line(what)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        parts, room = list(self._parts), self.size.width - 11
        over = len(" · ".join(parts)) - room
        if over > 0 and len(parts) > 2:
            kept = max(len(parts[1]) - over - 1, 0)
            parts[1:2] = [parts[1][:kept] + "…"] if kept > 3 else []
        said = Content.assemble((" specctl ", "bold reverse"), " " + " · ".join(parts))
        gap = self.size.width - said.cell_length - len(self._doing) - 1
        if self._doing and gap > 1:
            said += Content.assemble(" " * gap, (self._doing, "italic $text-accent"))
        self.update(said)
