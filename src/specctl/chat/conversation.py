"""A conversation as a value: who said what, with the events of every answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from specctl.chat.tape import Tape
from specctl.decode.prompt import Message
from specctl.decode.stats import Stats
from specctl.events import Emitted, Event, Finished


@dataclass(slots=True)
class Exchange:
    """A prompt and its answer. `reason` is why the answer ended, None while it has not."""

    user: str
    reason: str | None = None
    events: Tape = field(default_factory=Tape)
    _texts: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Emitted | Finished):
            self._texts.append(event.text)
        if isinstance(event, Finished):
            self.reason = event.reason

    @property
    def answer(self) -> str:
        """All of its text so far."""
        self._texts = ["".join(self._texts)]
        return self._texts[0]


@dataclass(slots=True)
class Conversation:
    """`left_out`: exchanges at the start that no longer go to the model, because the context was full."""

    system: str | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    left_out: int = 0

    def messages(self, prompt: str) -> list[Message]:
        """What the model is asked: all that was said, then `prompt`."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for one in self.exchanges[self.left_out :]:
            turns.append({"role": "user", "content": one.user})
            turns.append({"role": "assistant", "content": one.answer})
        return [*turns, {"role": "user", "content": prompt}]

    def undo(self) -> Exchange | None:
        """Takes the last exchange back."""
        if not self.exchanges:
            return None
        last = self.exchanges.pop()
        self.left_out = min(self.left_out, len(self.exchanges))
        return last

    @property
    def last(self) -> Exchange | None:
        return self.exchanges[-1] if self.exchanges else None

    def stats(self) -> Stats:
        """Of all answers together."""
        return stats_of(event for one in self.exchanges for event in one.events)

    def markdown(self) -> str:
        """A transcript for people."""
        parts = [f"**System:** {self.system}"] if self.system else []
        for one in self.exchanges:
            parts += [f"**You:** {one.user}", one.answer]
        return "\n\n".join(parts) + "\n"


def stats_of(events: Iterable[Event]) -> Stats:
    stats = Stats()
    for event in events:
        stats.add(event)
    return stats


def code_blocks(text: str) -> Iterator[str]:
    """The insides of the fenced code blocks of a Markdown text; one that is still open counts."""
    fence: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if fence is None and mark.startswith(("```", "~~~")):
            fence, lines = mark[: len(mark) - len(mark.lstrip(mark[0]))], []
        elif fence is not None and mark == fence:
            yield "".join(lines)
            fence = None
        elif fence is not None:
            lines.append(line)
    if fence is not None:
        yield "".join(lines)
