"""A recorded run, scrubbed forwards and backwards round by round. No model is needed."""

from __future__ import annotations

from bisect import bisect_right
from time import monotonic
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from specctl.chat.fold import Run, rounds, timeline
from specctl.chat.recording import Recording
from specctl.tui import look
from specctl.tui.chat import NARROW, UPDATES_PER_S
from specctl.tui.panes import Bar, Panes, Pulse
from specctl.tui.still import Body
from specctl.tui.talk import Answer, Talk

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class ReplayScreen(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "play", "Play", id="play"),
        Binding("right", "step(1)", "On", id="forward"),
        Binding("left", "step(-1)", "Back", id="back"),
        Binding("pagedown", "step(10)", "10 on", id="forward.ten", show=False),
        Binding("pageup", "step(-10)", "10 back", id="back.ten", show=False),
        Binding("home", "go(0)", "Start", id="start"),
        Binding("end", "go(-1)", "End", id="end"),
        Binding("up", "faster(1)", "Faster", id="faster"),
        Binding("down", "faster(-1)", "Slower", id="slower"),
        Binding("right_square_bracket", "run(1)", "Next run", id="run.next", show=False),
        Binding("left_square_bracket", "run(-1)", "Run before", id="run.previous", show=False),
        Binding("escape,q", "leave", "Leave", id="leave"),
    ]

    def __init__(self, found: Recording, *, playing: bool = False, baseline: float | None = None) -> None:
        super().__init__()
        self._found = found
        self._which = 0
        self._playing = playing
        self._baseline = baseline
        self._speed = SPEEDS.index(1.0)
        self._load()

    def _load(self) -> None:
        self._exchange = self._found.conversation.exchanges[self._which]
        self._events = list(self._exchange.events)
        self._times = timeline(self._events)
        self._stops = rounds(self._events)
        self._run = Run()
        self._shown = 0
        self._at = 0  # events folded
        self._now = 0.0

    def compose(self) -> ComposeResult:
        yield Bar()
        with Body(id="body"):
            talk = Talk()
            talk.can_focus = False  # its own keys would take Home, End and the arrows from the replay
            yield talk
            yield Panes()
        yield Pulse()
        yield Static(id="timeline", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        await self._begin()
        self._clock = monotonic()
        self.set_interval(1 / UPDATES_PER_S, self._tick)
        if not self._playing:
            await self.action_go(-1)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < NARROW, "narrow")
        self.set_class(event.size.height < 34, "low")
        footer = self.query_one(Footer)
        footer.compact = event.size.width < NARROW
        footer.show_command_palette = event.size.width >= NARROW
        self._draw()

    async def _begin(self) -> None:
        talk = self.query_one(Talk)
        talk.wipe()
        if self._exchange.user:
            talk.say(self._exchange.user, "user")
        self._answer: Answer = talk.answer()
        await self._to(0)

    async def _tick(self) -> None:
        now = monotonic()
        passed, self._clock = now - self._clock, now
        if not self._playing:
            return
        self._now += passed * SPEEDS[self._speed]
        at = bisect_right(self._times, self._now)
        self._playing = at < len(self._events)
        await self._to(at)

    async def _to(self, at: int) -> None:
        """Fold exactly the first `at` events."""
        if at < self._at:
            self._run, self._at, self._shown = Run(), 0, 0
            self._answer.replace("")
        for event in self._events[self._at : at]:
            self._run.add(event)
        self._at = at
        chunks = [chunk for row in sorted(self._run.chunks) for chunk in self._run.chunks[row]]
        self._answer.add("".join(chunks[self._shown :]))
        self._shown = len(chunks)
        self._draw()

    def _draw(self) -> None:
        if self.has_class("narrow"):
            self.query_one(Pulse).show(self._run, self._baseline)
        self.query_one(Panes).show(self._run, self._baseline)
        started = self._run.started
        if started is not None:
            names = f"{started.target} + {started.draft}" if started.draft else started.target
            law = "exact" if started.exact else "lossy"
            self.query_one(Bar).tell(
                "recorded", started.profile, names, f"{started.device} {started.dtype}", law
            )
        width = max(self.size.width - 2, 20)
        total = len(self._stops)
        passed = bisect_right(self._stops, self._at)
        said = f" round {self._run.stats.rounds} · {self._run.seconds:.1f} s · {SPEEDS[self._speed]:g}× "
        room = max(width - len(said) - 2, 4)
        mark = "▶" if self._playing else "■"
        done = look.bar(passed / max(total, 1), room, "$primary")
        self.query_one("#timeline", Static).update(Content.assemble(f"{mark} ", done, said))

    async def action_play(self) -> None:
        if self._at == len(self._events):
            await self.action_go(0)
        self._playing = not self._playing
        self._draw()

    async def action_step(self, by: int) -> None:
        self._playing = False
        place = bisect_right(self._stops, self._at) - 1 + by
        await self._jump(0 if place < 0 else self._stops[min(place, len(self._stops) - 1)])

    async def action_go(self, where: int) -> None:
        self._playing = False
        await self._jump(0 if where == 0 else len(self._events))

    async def _jump(self, at: int) -> None:
        await self._to(at)
        self._now = self._times[at - 1] if at else 0.0

    def action_faster(self, by: int) -> None:
        self._speed = min(max(self._speed + by, 0), len(SPEEDS) - 1)
        self._draw()

    async def action_run(self, by: int) -> None:
        last = len(self._found.conversation.exchanges) - 1
        self._which = min(max(self._which + by, 0), last)
        self._load()
        await self._begin()

    def action_leave(self) -> None:
        if len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.app.exit()
