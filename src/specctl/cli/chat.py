"""`specctl chat`: the terminal chat, and its demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console, options
from specctl.errors import RequestError

if TYPE_CHECKING:
    from specctl.chat import recording
    from specctl.profile.schema import Profile
    from specctl.tui.app import Workbench

EXAMPLES = """Examples:

specctl chat

specctl chat --profile draft-model --pair qwen2.5-coder-1.5b

specctl chat --resume last

specctl chat --demo"""


def chat(
    ctx: typer.Context,
    profile: options.ProfileName = "default",
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    system: options.System = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME|last", help="Go on with a saved chat.", rich_help_panel="Chat"),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep the chat on disk.", rich_help_panel="Chat")
    ] = True,
    race: Annotated[
        bool,
        typer.Option("--race", help="Race each first answer against plain decoding.", rich_help_panel="Chat"),
    ] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Replay a recorded run; no model is needed.", rich_help_panel="Chat"),
    ] = False,
) -> None:
    """Talk to a model, and see beside the answer what is drafted, accepted and rejected."""
    require_terminal("chat")
    from specctl.chat import config, recording
    from specctl.profile import override, read

    wishes = config.load()
    if demo:
        show_recording(recording.read(demo_path()), playing=True)
        return
    settings = override.merge(read.load(profile), options.typed(ctx))
    found = None
    if resume is not None:
        known = recording.list_sessions()
        if resume == "last" and not known:
            raise RequestError("there is no chat saved yet", hint="start one with `specctl chat`")
        found = recording.read(known[0] if resume == "last" else recording.find(resume))
    _run(settings, found, save=save and wishes.save, race=race)


def _run(settings: Profile, found: recording.Recording | None, *, save: bool, race: bool) -> None:
    from specctl.chat import config, recording
    from specctl.cli import log, ready
    from specctl.tui.app import Workbench
    from specctl.tui.chat import ChatScreen

    log.noise_to_file()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from specctl.chat.local import LocalEngine
    from specctl.chat.one_thread import OneThread

    engine = OneThread(LocalEngine(ready.open_for_chat, ready.missing_for_chat))
    path = recording.new_path() if save else None
    screen = ChatScreen(engine, settings, path, found.conversation if found else None)
    screen.race_first = race
    show(Workbench(lambda: screen, config.load()))


def show_recording(found: recording.Recording, *, playing: bool) -> None:
    from specctl.chat import config
    from specctl.tui.app import Workbench
    from specctl.tui.replay import ReplayScreen

    show(Workbench(lambda: ReplayScreen(found, playing=playing), config.load()))


def show(app: Workbench) -> None:
    """Runs the application to its end; what it crashed of is raised once the terminal is in order again."""
    app.run()
    if app.crash is not None:
        raise app.crash
    if app.return_code:
        raise typer.Exit(app.return_code)


def demo_path() -> Path:
    from specctl import chat as package

    return Path(package.__file__).with_name("demo.jsonl")


def require_terminal(command: str) -> None:
    """Raises RequestError where nobody could see or answer. Textual draws on standard error."""
    if not (console.is_live(sys.stdout) and console.is_terminal(sys.stdin)):
        raise RequestError(f"`{command}` needs a terminal", hint="use `specctl run` in scripts and pipes")
    if not console.is_terminal(sys.stderr):
        raise RequestError(f"`{command}` draws on standard error", hint="do not redirect it")
