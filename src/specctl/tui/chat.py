"""The chat: a conversation, the panes beside it, and a thread that hands over events."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from time import monotonic, thread_time
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, TextArea

from specctl.chat import history
from specctl.chat.conversation import Conversation, Exchange
from specctl.chat.engine import ContextFull, Engine, Ready
from specctl.chat.fold import Run
from specctl.chat.keeping import Keeper
from specctl.cli.safe_text import safe_line
from specctl.errors import SpecctlError
from specctl.events import Event
from specctl.profile import override
from specctl.profile.schema import Profile
from specctl.tui import commands
from specctl.tui.fetching import Fetching
from specctl.tui.hints import Hints
from specctl.tui.palette import SlashCommands
from specctl.tui.panes import Bar, Panes, Pulse
from specctl.tui.picker import Picker
from specctl.tui.prompt import Prompt
from specctl.tui.still import Body
from specctl.tui.talk import Answer, Saying, Talk

UPDATES_PER_S = 15
DRAWING = 0.04
"""The share of a core that drawing an answer may take from the models."""
NARROW = 100
LOW = 34

_WELCOME = """\
A draft guesses a few tokens, the target checks them all at once: the same text in fewer steps.
Beside each answer you see what was drafted, what was kept and what it gained.

Ask something, or type /help."""


class ChatScreen(Screen[None]):
    """`path`: where the chat is kept, None for nowhere."""

    COMMANDS = Screen.COMMANDS | {SlashCommands}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("ctrl+c", "interrupt", "Stop", id="interrupt", show=False, priority=True),
        Binding("f1", "command('/help')", "Help", id="help"),
        Binding("f2", "pane('#draft')", "Draft", id="pane.draft"),
        Binding("f3", "pane('#acceptance')", "Accepted", id="pane.acceptance"),
        Binding("f4", "pane('#speed')", "Speed", id="pane.speed"),
        Binding("f5", "probabilities", "p, q", id="probabilities"),
        Binding("ctrl+l", "command('/clear')", "Clear", id="clear", show=False),
        Binding("ctrl+r", "command('/compare')", "Race", id="race"),
    ]

    def __init__(
        self, engine: Engine, profile: Profile, path: Path | None, resumed: Conversation | None = None
    ) -> None:
        super().__init__()
        self.engine = engine
        self.base = self.profile = profile
        self.keeper = Keeper(path, self._not_kept)
        self.talked = resumed or Conversation(system=profile.system)
        self.ready: Ready | None = None
        self.run_shown = Run()
        self.baseline: float | None = None
        self.busy = False
        self.race_first = False
        self.attempt = 0
        self.to_drop = 0  # exchanges to leave out if the prompt is sent again
        self._stop = False
        self._fetching = Fetching()
        self._inbox: deque[Event] = deque()
        self._queued: list[str] = []
        self._answer: Answer | None = None
        self._welcome: Saying | None = None
        self._rest_until = 0.0

    def compose(self) -> ComposeResult:
        yield Bar()
        with Body(id="body"):
            yield Talk()
            yield Panes()
        yield Pulse()
        yield Hints()
        yield Prompt(history.load() if self.keeper.path else [])
        yield Footer()

    async def on_mount(self) -> None:
        prompt = self.query_one(Prompt)
        prompt.focus()
        self.show_conversation()
        for one in self.talked.exchanges:
            prompt.remember(one.user)
        if not self.talked.exchanges:
            self._welcome = self.talk.say(_WELCOME)
        self.set_interval(1 / UPDATES_PER_S, self._drain_in_turn)
        try:
            missing = self.engine.missing(self.profile)
        except SpecctlError as error:
            await self._failed(error, None)
            return
        if missing:
            self.app.push_screen(Picker(self.engine.offers(), self.profile.pair), self._picked)
        else:
            self.open_profile(self.profile)

    def on_unmount(self) -> None:
        self._stop = True

    async def _picked(self, pair: str | None) -> None:
        if pair is None:
            self._tell()
            return
        try:
            self.base = (
                override.merge(self.profile, {"pair": pair}) if pair != self.profile.pair else self.profile
            )
        except SpecctlError as error:
            await self._failed(error, None)
            return
        self.open_profile(self.base)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < NARROW, "narrow")
        self.set_class(event.size.height < LOW, "low")
        footer = self.query_one(Footer)
        footer.compact = event.size.width < NARROW
        footer.show_command_palette = event.size.width >= NARROW
        self.show_run()

    @property
    def talk(self) -> Talk:
        return self.query_one(Talk)

    def show_conversation(self) -> None:
        """All of it anew, with the rounds of its last answer."""
        self.talk.wipe()
        for one in self.talked.exchanges:
            self.talk.say(one.user, "user")
            self.talk.answer().replace(one.answer)
        self._show_last_run()

    def _show_last_run(self) -> None:
        self.run_shown = Run()
        for event in self.talked.last.events if self.talked.last else ():
            self.run_shown.add(event)
        self.show_run()

    def say(self, text: str, kind: str = "notice") -> None:
        self.talk.say(text, kind)

    # Models -----------------------------------------------------------------------------------------------------

    def open_profile(self, profile: Profile) -> None:
        """Loads a profile's models; the conversation stays."""
        self.busy, self._stop = True, False
        self.query_one(Bar).do(f"loading {profile.pair or profile.target} …")
        self._open(profile)

    @work(thread=True, exclusive=True, group="engine", exit_on_error=False)
    def _open(self, profile: Profile) -> None:
        try:
            ready = self.engine.open(profile, self._fetching)
            baseline = self.engine.baseline()
        except Exception as error:
            self.call_later(self._failed, error, None)
            return
        self.call_later(self._opened, profile, ready, baseline)

    async def _opened(self, profile: Profile, ready: Ready, baseline: float | None) -> None:
        self.profile, self.ready, self.baseline = profile, ready, baseline
        self.busy = False
        self._tell()
        for note in ready.notes:
            self.say(note)
        self._next()

    def _tell(self) -> None:
        """The header: what is in force."""
        self.query_one(Bar).do("")
        if self.ready is None:
            self.query_one(Bar).tell(self.profile.name, "no model is loaded: /profile chooses another")
            return
        ready = self.ready
        names = f"{ready.target} + {ready.draft}" if ready.draft else ready.target
        law = "exact" if ready.exact else "lossy: not the target's own law"
        self.query_one(Bar).tell(self.profile.name, names, f"{ready.device} {ready.dtype}", law)

    # Generating -------------------------------------------------------------------------------------------------

    @on(Prompt.Sent)
    async def _sent(self, message: Prompt.Sent) -> None:
        text = message.text
        if self.keeper.path is not None:
            history.add(text)
        if text.startswith("/") or text.lower() in ("exit", "quit"):
            await commands.run(self, text if text.startswith("/") else "/quit")
        elif self.busy or self.ready is None:
            self._queued.append(text)
            self.notify(f"{len(self._queued)} waiting", markup=False, timeout=2)
        else:
            await self.ask(text)

    async def ask(self, text: str, attempt: int = 0) -> None:
        """Sends a prompt to the model; the answer comes in by `_drain`."""
        self.busy, self._stop = True, False
        if self.to_drop:
            self.talked.left_out += self.to_drop
            self.to_drop = 0
            self.keeper.add([{"left_out": self.talked.left_out}])
        exchange = Exchange(text)
        messages = self.talked.messages(text)
        self.talked.exchanges.append(exchange)
        if self._welcome is not None:
            self.talk.take_out(self._welcome)
        self.say(text, "user")
        self._answer = self.talk.answer()
        self.talk.to_end()
        self.run_shown = Run()
        self.query_one(Bar).do("answering · Esc stops")
        self._generate(messages, attempt)

    @work(thread=True, exclusive=True, group="engine", exit_on_error=False)
    def _generate(self, messages: list[dict[str, str]], attempt: int) -> None:
        try:
            for event in self.engine.reply(messages, attempt=attempt, cancelled=lambda: self._stop):
                self._inbox.append(event)
        except Exception as error:
            self.call_later(self._failed, error, messages[-1]["content"])
            return
        self.call_later(self._finished)

    async def _drain_in_turn(self) -> None:
        """As often as the screen is drawn, and no more than `DRAWING` of the time in all."""
        if self._fetching.line():
            self.query_one(Bar).do(self._fetching.line())
        if self._inbox and monotonic() >= self._rest_until:
            begun = thread_time()
            await self._drain()
            self.call_after_refresh(self._rest, begun)

    def _rest(self, begun: float) -> None:
        self._rest_until = monotonic() + (thread_time() - begun) * (1 / DRAWING - 1)

    async def _drain(self) -> None:
        """Everything that came in since the last screen update, at once."""
        if self.talked.last is None:
            return
        texts = []
        while self._inbox:
            event = self._inbox.popleft()
            self.run_shown.add(event)
            self.talked.last.add(event)
            texts.append(getattr(event, "text", ""))
        if self._answer is not None:
            self._answer.add("".join(texts))
        self.show_run(calm=True)

    def show_run(self, *, calm: bool = False) -> None:
        if self.has_class("narrow"):
            self.query_one(Pulse).show(self.run_shown, self.baseline)
        self.query_one(Panes).show(self.run_shown, self.baseline, calm=calm)

    async def _finished(self) -> None:
        await self._drain()
        self.show_run()
        self.busy = False
        self.query_one(Bar).do("")
        reason = self.talked.last.reason if self.talked.last else None
        if reason == "cancelled":
            self.say("stopped")
        elif reason == "length":
            most = self.profile.max_new_tokens
            self.say(f"the answer ends at max_new_tokens; /set max_new_tokens {2 * most} allows more")
        elif reason == "context":
            self.say("the context is full: /clear, or ask again to drop the oldest exchanges")
        self.keeper.keep_last(self.talked, self.profile)
        if self.race_first:
            self.race_first = False
            await commands.run(self, "/compare")
        self._next()

    async def _failed(self, error: Exception, prompt: str | None) -> None:
        """Says it, puts the prompt back in the box and goes on."""
        await self._drain()
        self.busy = False
        waiting = [*([] if prompt is None else [prompt]), *self._queued]
        self._queued.clear()
        if prompt is not None:
            self.talked.undo()
            if self._answer is not None:
                self.talk.take_out(self._answer)
            self._show_last_run()
        typed = self.query_one(Prompt).text
        if waiting:
            self.query_one(Prompt).fill("\n".join([*waiting, *([typed] if typed else [])]))
        if isinstance(error, ContextFull) and error.drop:
            self.to_drop = error.drop
            self.say(self._offer(error))
        elif isinstance(error, SpecctlError):
            self.say(error.message + (f" ({error.hint})" if error.hint else ""), "error")
        else:
            self.say(f"this is a bug in specctl: {type(error).__name__}: {error}", "error")
        self._tell()

    def _offer(self, full: ContextFull) -> str:
        """What can be done about a full context."""
        oldest = self.talked.exchanges[self.talked.left_out :][: full.drop]
        named = ", ".join(f"“{one.user.strip()[:40]}”" for one in oldest[:3]) + (
            " …" if len(oldest) > 3 else ""
        )
        count = "the oldest exchange" if full.drop == 1 else f"the oldest {full.drop} exchanges"
        return f"{full.message}. Send again to leave out {count} ({named}), or /clear to begin anew"

    def _next(self) -> None:
        """Whatever waits: typed prompts first, then the baseline that is still missing."""
        if self.busy or self.ready is None:
            return
        if self._queued:
            self.busy = True
            self.call_later(self.ask, self._queued.pop(0))
        elif self.baseline is None:
            self.busy, self._stop = True, False
            self.query_one(Bar).do("measuring plain decoding")
            self._probe()

    @work(thread=True, exclusive=True, group="engine", exit_on_error=False)
    def _probe(self) -> None:
        try:
            speed = self.engine.probe(lambda: self._stop or bool(self._queued))
        except Exception as error:
            self.call_later(self._failed, error, None)
            return
        self.call_later(self._probed, speed)

    def _probed(self, speed: float | None) -> None:
        self.busy = False
        self.baseline = speed
        self.query_one(Bar).do("")
        self.show_run()
        if speed is not None or self._queued:
            self._next()

    # Keys -------------------------------------------------------------------------------------------------------

    def action_stop(self) -> None:
        self._stop = True
        self.query_one(Hints).close()

    def action_interrupt(self) -> None:
        selected = self.get_selected_text()
        if selected:
            self.app.copy_to_clipboard(selected)
        elif self.busy:
            self._stop = True
        else:
            self.notify("Ctrl+Q quits", markup=False, timeout=3)

    async def action_command(self, text: str) -> None:
        await commands.run(self, text)

    async def action_probabilities(self) -> None:
        await commands.run(self, f"/set probabilities {'off' if self.profile.probabilities else 'on'}")

    def action_pane(self, pane: str) -> None:
        widget = self.query_one(pane)
        if self.has_class("narrow"):
            opened = self.has_class("open") and widget.display
            for other in self.query_one(Panes).children:
                other.display = other is widget
            self.set_class(not opened, "open")
        else:
            widget.display = not widget.display
        self.show_run()

    @on(TextArea.Changed, "#prompt")
    def _typed(self) -> None:
        text = self.query_one(Prompt).text
        found = commands.completions(self, text) if text.startswith("/") and "\n" not in text else []
        self.query_one(Hints).show(found)

    # The conversation -------------------------------------------------------------------------------------------

    def _not_kept(self, why: str) -> None:
        self.notify(f"not saved: {safe_line(why)}", severity="warning", markup=False)

    def start_anew(self, conversation: Conversation) -> None:
        """Another conversation, kept in a file of its own."""
        self.talked = conversation
        self.to_drop = 0
        self.keeper.begin_anew()
