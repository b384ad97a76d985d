"""One answer from end to end: models found, loaded, run, and shown the way that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from specctl import paths
from specctl.cli import console, log, ready, render
from specctl.cli.choice import Choice
from specctl.cli.interrupt import Interrupt
from specctl.cli.memory import out_of_memory
from specctl.cli.status import StatusLine
from specctl.events import Event
from specctl.profile.schema import Profile


@dataclass(frozen=True, slots=True)
class Wish:
    """How an answer is to be made and shown. `unasked`: fetch models of any size without a question."""

    raw: bool
    offline: bool
    unasked: bool
    show_draft: bool
    as_json: bool
    as_jsonl: bool
    quiet: bool
    verbose: bool

    @property
    def silent(self) -> bool:
        """No progress on standard error."""
        return self.quiet or self.as_json or self.as_jsonl


def answer(profile: Profile, choice: Choice, prompt: str, wish: Wish) -> str:
    """Shows the answer and returns why it ended."""
    with out_of_memory(profile, choice):
        stream = events(profile, choice, prompt, wish)
        return render.follow(stream, sink(choice, wish))


def events(profile: Profile, choice: Choice, prompt: str, wish: Wish) -> Iterator[Event]:
    """Everything that needs a model. Ctrl-C ends loading at once, decoding after its round."""
    folders = ready.find_or_fetch(choice, offline=wish.offline, unasked=wish.unasked, quiet=wish.silent)
    log.noise_to_file()
    status = StatusLine(under_text=False)
    if console.is_live(sys.stderr) and not wish.silent:
        first = "" if (paths.cache_dir() / "numerics.json").exists() else "; the first time also measuring it"
        status.show("loading " + " and ".join(model.name for model in choice.models) + first)
    try:
        session = ready.open_session(profile, choice, folders, prompt)
    finally:
        status.hide()
    for note in (session.info.numerics_note, session.info.draft_note):
        if note and not wish.quiet:
            console.note(f"note: {note}")
    from specctl.session import Request

    ids = session.encode(prompt, system=None if wish.raw else profile.system, raw=wish.raw)
    request = Request(ids, profile.max_new_tokens, profile.sampling.seed, tuple(profile.stop))
    with Interrupt() as interrupt:
        yield from session.generate([request], cancelled=interrupt.asked)


def sink(choice: Choice, wish: Wish) -> render.Sink:
    if wish.as_json:
        return render.JsonDocument(pair=choice.pair)
    if wish.as_jsonl:
        return render.JsonLines()
    live = console.is_live(sys.stderr) and not wish.quiet
    look = render.Look(wish.show_draft, live, wish.quiet, wish.verbose)
    return render.TerminalText(look) if console.is_terminal(sys.stdout) else render.PlainText(look)
