"""The panes beside a conversation: what was drafted, what was accepted, how fast it is."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from specctl.chat.fold import Run
from specctl.cli.safe_text import safe_line
from specctl.tui import look


class Pane(Widget):
    """A titled box that draws a run. `show` is cheap when nothing changed."""

    can_focus = False

    def __init__(self, title: str, id: str) -> None:
        super().__init__(id=id)
        self.border_title = title
        self._run = Run()
        self._baseline: float | None = None

    def show(self, run: Run, baseline: float | None) -> None:
        self._run, self._baseline = run, baseline
        self.refresh()


class DraftPane(Pane):
    """The last rounds, newest at the bottom."""

    def __init__(self) -> None:
        super().__init__("Draft", "draft")
        self.border_subtitle = "struck: rejected · bold: the target's own"

    def render(self) -> Content:
        width, height = self.content_size
        lines: list[Content] = []
        rows = self._run.started.rows if self._run.started else 1
        for one in reversed(self._run.recent):
            lines = look.round_lines(one, width, rows) + lines
            if len(lines) >= height:
                break
        if not lines:
            return Content.styled("tokens are shown here as they are drafted and judged", "$text-muted")
        return Content("\n").join(lines[-height:])


class AcceptancePane(Pane):
    """How often each position of a draft was accepted, and the last rounds as a line."""

    def __init__(self) -> None:
        super().__init__("Acceptance", "acceptance")

    def render(self) -> Content:
        run, stats = self._run, self._run.stats
        width, height = self.content_size
        if not stats.drafted:
            text = "nothing drafted: the target goes token by token" if stats.rounds else "no rounds yet"
            return Content.styled(text, "$text-muted")
        room = max(width - 14, 4)
        total = look.rate(stats.accepted, stats.drafted, stats.rounds)
        mean = f"{stats.mean_acceptance_length:.2f}"
        head = Content.assemble((total, "bold"), " accepted · ", (mean, "bold"), " tokens a forward")
        positions = list(zip(run.accepted_at, run.drafted_at, strict=False))
        fit = max(height - 2, 1)
        shown = positions if len(positions) <= fit else positions[: fit - 1]
        lines = [head]
        for number, (accepted, drafted) in enumerate(shown, 1):
            said = look.rate(accepted, drafted, stats.rounds)
            bar = (look.bar(accepted / drafted, room), "$success")
            lines.append(Content.assemble((f"{number:>2} ", "$text-muted"), bar, f" {said:>9}"))
        if len(shown) < len(positions):
            lines.append(Content.styled(f"   … up to position {len(positions)}", "$text-muted"))
        spark = look.sparkline(run.accepted_recently, max(width - 11, 1))
        lines.append(Content.assemble(("per round ", "$text-muted"), (spark, "$primary")))
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
            return Content.styled(waiting, "$text-muted")
        draft, verify, whole = parts
        width = max(self.content_size.width, 10)
        speed = f"{stats.tokens_per_s:.1f}"
        ratio = look.speedup(run, self._baseline)
        style = "bold $text-warning" if "slower" in ratio else "bold $text-success"
        plain = f"plain {self._baseline:.1f} tokens/s here" if self._baseline else "plain not measured yet"
        at = round(draft / whole * width) if whole else 0
        past = min(round((draft + verify) / whole * width), width) if whole else 0
        split = Content.assemble(
            ("▒" * at, "$warning"), ("█" * (past - at), "$primary"), ("░" * (width - past), "$text-muted")
        )
        rest = max(whole - draft - verify, 0)
        return Content("\n").join(
            [
                Content.assemble((speed, "bold"), " tokens/s  ", (ratio, style)),
                Content.styled(plain, "$text-muted"),
                split,
                Content(f"round {whole:.1f} ms: ▒ draft {draft:.1f} █ verify {verify:.1f} ░ {rest:.1f}"),
                Content.styled(
                    f"{stats.new_tokens} tokens · {stats.rounds} rounds · prompt {stats.prefill_s:.2f} s",
                    "$text-muted",
                ),
            ]
        )


class Pulse(Pane):
    """What the panes say in two lines, for terminals too narrow for them."""

    def __init__(self) -> None:
        super().__init__("", "pulse")

    def render(self) -> Content:
        run, stats = self._run, self._run.stats
        width = max(self.content_size.width, 20)
        if not run.recent:
            return Content.styled(
                "  what is drafted and accepted is shown here; F2 to F4 open panes", "$text-muted"
            )
        first = look.round_lines(run.recent[-1], width)[0]
        parts = [f"{stats.tokens_per_s:.1f} tokens/s" if stats.tokens_per_s else ""]
        if stats.drafted:
            parts.append(look.rate(stats.accepted, stats.drafted, stats.rounds) + " accepted")
        parts.append(look.speedup(run, self._baseline))
        said = " · ".join(part for part in parts if part)
        spark = look.sparkline(run.accepted_recently, max(width - len(said) - 8, 1))
        second = Content.assemble(("     " + said + "  ", "$text-muted"), (spark, "$primary"))
        return first + Content("\n") + second.truncate(width)


class Panes(Vertical):
    """The three panes; each can be hidden."""

    def compose(self) -> ComposeResult:
        yield DraftPane()
        yield AcceptancePane()
        yield SpeedPane()

    def show(self, run: Run, baseline: float | None) -> None:
        for pane in self.query(Pane):
            if pane.display:
                pane.show(run, baseline)


class Bar(Static):
    """The line at the top: what is running."""

    def __init__(self) -> None:
        super().__init__("specctl", id="bar", markup=False)

    def tell(self, *parts: str) -> None:
        said = [safe_line(part) for part in parts if part]
        self.update(Content.assemble((" specctl ", "bold reverse"), " " + " · ".join(said)))
