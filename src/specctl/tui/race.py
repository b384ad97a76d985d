"""The last prompt again with plain decoding, then both side by side at the speed they had."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from time import monotonic
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from specctl.chat.engine import Engine
from specctl.chat.fold import Run, timeline
from specctl.cli.safe_text import safe_line
from specctl.events import Emitted, Event, Prefilled, Started
from specctl.tui import look
from specctl.tui.chat import UPDATES_PER_S
from specctl.tui.panes import Bar
from specctl.tui.still import Body
from specctl.tui.talk import Answer, Talk


class Track(Vertical):
    """One run of the race."""

    def __init__(self, title: str) -> None:
        super().__init__(classes="track")
        self.border_title = Content(safe_line(title))  # a plain string would be read as markup
        self._events: list[Event] = []
        self._times: list[float] = []
        self._at = 0
        self._run = Run()

    def compose(self) -> ComposeResult:
        yield Static("", classes="figures", markup=False)
        yield Talk()

    async def begin(self, events: Sequence[Event]) -> None:
        """The clock starts at the first round: reading the prompt is not raced."""
        self._events = [event for event in events if not isinstance(event, Prefilled)]
        self._times = timeline(self._events)
        self._at, self._run = 0, Run()
        self.query_one(Talk).wipe()
        self._answer: Answer = self.query_one(Talk).answer()

    async def to(self, now: float) -> bool:
        """Show what was there after `now` seconds; whether all is shown."""
        at = bisect_right(self._times, now)
        text = ""
        for event in self._events[self._at : at]:
            self._run.add(event)
            text += getattr(event, "text", "")
        self._at = at
        self._answer.add(text)
        stats = self._run.stats
        speed = f"{stats.tokens_per_s:.1f} tokens/s · " if stats.tokens_per_s else ""
        done = " · done" if at == len(self._events) else ""
        said = f"{speed}{stats.new_tokens} tokens · {stats.decode_s:.1f} s{done}"
        bar = look.bar(at / max(len(self._events), 1), max(self.size.width - 4, 4), "$primary")
        self.query_one(".figures", Static).update(Content.assemble(said, "\n", bar))
        return at == len(self._events)


class RaceScreen(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "again", "Again", id="race.again"),
        Binding("escape,q", "leave", "Leave", id="race.leave"),
    ]

    def __init__(self, engine: Engine, messages: Sequence[dict[str, str]], drafted: list[Event]) -> None:
        super().__init__()
        self._engine = engine
        self._messages = messages
        self._drafted = drafted
        self._plain: list[Event] = []
        self._stop = False
        self._begun: float | None = None

    def compose(self) -> ComposeResult:
        yield Bar()
        with Body(id="body"):
            started = next((event for event in self._drafted if isinstance(event, Started)), None)
            yield Track(started.profile if started else "drafted")
            yield Track("plain")
        yield Static("plain decoding runs …", id="result", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Bar).tell("race", "the same prompt, each at the speed it had")
        self.set_interval(1 / UPDATES_PER_S, self._tick)
        self._generate()

    def on_unmount(self) -> None:
        self._stop = True

    @work(thread=True, exclusive=True, group="engine", exit_on_error=False)
    def _generate(self) -> None:
        try:
            for event in self._engine.reply(self._messages, plain=True, cancelled=lambda: self._stop):
                self._plain.append(event)
        except Exception as error:
            self.call_later(self._say, f"plain decoding failed: {safe_line(str(error))}")
            return
        if not self._stop:
            self.call_later(self.action_again)

    def _say(self, text: str) -> None:
        self.query_one("#result", Static).update(text)

    async def action_again(self) -> None:
        if not self._plain:
            return
        for track, events in zip(self.query(Track), (self._drafted, self._plain), strict=True):
            await track.begin(events)
        self._say(verdict(self._drafted, self._plain))
        self._begun = monotonic()

    async def _tick(self) -> None:
        if self._begun is None:
            return
        now = monotonic() - self._begun
        done = [await track.to(now) for track in self.query(Track)]
        if all(done):
            self._begun = None

    def action_leave(self) -> None:
        self._stop = True
        self.app.pop_screen()


def verdict(drafted: Sequence[Event], plain: Sequence[Event]) -> str:
    """The measured ratio and the first difference in words."""
    ours, theirs = _tokens(drafted), _tokens(plain)
    pairs = zip(ours, theirs, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    fast, slow = (_speed(events) for events in (drafted, plain))
    ratio = f"{fast / slow:.2f}× plain decoding" if fast and slow else "no ratio: too short"
    if fast and slow and fast < 0.98 * slow:
        ratio += " (slower than plain)"
    if first is not None:
        sampled = any(isinstance(e, Started) and e.accept == "rejection" for e in drafted)
        why = "; sampled text is equal in law, not in its tokens" if sampled else ""
        return f"{ratio} · first difference at token {first + 1}{why}"
    if len(ours) != len(theirs):
        return f"{ratio} · no difference in the {min(len(ours), len(theirs))} tokens both have"
    return f"{ratio} · no difference in {len(ours)} tokens"


def _tokens(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Emitted) for token in event.tokens]


def _speed(events: Sequence[Event]) -> float | None:
    run = Run()
    for event in events:
        run.add(event)
    return run.stats.tokens_per_s
