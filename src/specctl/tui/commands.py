"""The slash commands: a table of names, what they say of themselves, and what they do."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specctl.chat import recording
from specctl.chat.conversation import Conversation, code_blocks, stats_of
from specctl.chat.keeping import whole
from specctl.decode.stats import Stats
from specctl.errors import SpecctlError
from specctl.profile import files, override, read
from specctl.profile.schema import effective
from specctl.tui import look

if TYPE_CHECKING:
    from specctl.tui.chat import ChatScreen


@dataclass(frozen=True, slots=True)
class Command:
    """`idle`: it has to wait for the end of an answer."""

    hint: str
    help: str
    do: Callable[[ChatScreen, str], Awaitable[None]]
    idle: bool = False


async def run(screen: ChatScreen, text: str) -> None:
    """Does what `/name argument` says; nothing that starts with a slash goes to the model."""
    name, _, argument = text.strip().partition(" ")
    name = {"/exit": "/quit", "/bye": "/quit", "/?": "/help"}.get(name, name)
    command = COMMANDS.get(name)
    if command is None:
        near = [known for known in COMMANDS if known.startswith(name)]
        if len(near) != 1:
            screen.say(f"there is no command {name}; /help lists them", "error")
            return
        command = COMMANDS[near[0]]
    if command.idle and screen.busy:
        screen.say(f"{name} has to wait until the model is free; Esc stops an answer")
        return
    try:
        await command.do(screen, argument.strip())
    except SpecctlError as error:
        screen.say(error.message + (f" ({error.hint})" if error.hint else ""), "error")
    except OSError as error:
        screen.say(f"{error.strerror or error}", "error")


def completions(screen: ChatScreen, text: str) -> list[tuple[str, str]]:
    """Whole lines that `text` may become, with what they do."""
    name, space, argument = text.partition(" ")
    if not space:
        return [(one, f"{c.hint}  {c.help}".strip()) for one, c in COMMANDS.items() if one.startswith(name)]
    values: list[str] = []
    if name == "/profile":
        values = sorted({one.name for one in files.list_profiles()})
    elif name == "/set":
        values = [key for key, _, _ in override.origins(screen.base, screen.profile, ())]
    elif name == "/load":
        values = [path.stem for path in recording.list_sessions()[:50]]
    return [(f"{name} {value}", "") for value in values if value.startswith(argument) and value != argument]


_KEYS = [
    ("Enter", "send; Ctrl+J begins a new line"),
    ("Up Down", "what was sent before"),
    ("Tab", "complete a command"),
    ("Esc Ctrl+C", "stop the answer"),
    ("F2 F3 F4", "show or hide a pane"),
    ("F5", "probabilities of drafted tokens: p the target's, q the drafter's"),
    ("Ctrl+R", "race against plain decoding"),
    ("Ctrl+P", "palette, with themes"),
    ("Ctrl+Q", "quit"),
]


async def _help(screen: ChatScreen, argument: str) -> None:
    wanted = argument if not argument or argument.startswith("/") else f"/{argument}"
    found = [(f"{name} {c.hint}".strip(), c.help) for name, c in COMMANDS.items() if name.startswith(wanted)]
    if not found:
        screen.say(f"there is no command {wanted}; /help lists them", "error")
        return
    keys = [] if argument else [("", ""), *_KEYS]
    screen.say(look.table([*found, *keys], screen.talk.room))


async def _profile(screen: ChatScreen, name: str) -> None:
    if not name:
        names = sorted({one.name for one in files.list_profiles()})
        screen.say(f"profile {screen.profile.name}; there are {', '.join(names)}")
        return
    chosen = read.load(name)
    if screen.ready is not None and chosen.pair != screen.profile.pair and chosen.drafter.uses_draft is False:
        # Another drafter for the model one talks to; a profile that brings a draft brings its pair.
        chosen = override.merge(chosen, _models_of(screen))
    screen.base = chosen
    screen.open_profile(chosen)


def _models_of(screen: ChatScreen) -> dict[str, object]:
    profile = screen.profile
    return {"pair": profile.pair} if profile.pair else {"target": profile.target}


_SECTIONS = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"}


async def _set(screen: ChatScreen, argument: str) -> None:
    import yaml

    key, _, text = argument.partition(" ")
    if not text:
        screen.say("as in /set temperature 0.8; /settings shows all", "error")
        return
    if key in _SECTIONS:
        key = f"sampling.{key}"
    elif key in screen.profile.drafter.model_dump():
        key = f"drafter.{key}"
    if key.split(".")[0] not in effective(screen.profile):
        screen.say(f"there is no setting {key}; /settings shows all", "error")
        return
    try:
        value = None if text == "none" else yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    screen.open_profile(override.merge(screen.profile, {key: value}))


async def _settings(screen: ChatScreen, _: str) -> None:
    base = {key: value for key, value, _ in override.origins(screen.base, screen.base, ())}
    lines = []
    for key, value, origin in override.origins(screen.base, screen.profile, ()):
        lines.append((key, f"{_plain(value)}  ({origin if base.get(key) == value else 'set here'})"))
    screen.say(look.table(lines, screen.talk.room))


def _plain(value: object) -> str:
    """As one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


async def _stats(screen: ChatScreen, argument: str) -> None:
    last = screen.talked.last
    if last is None:
        screen.say("nothing was generated yet")
        return
    stats = stats_of(last.events) if argument == "last" else screen.talked.stats()
    plain = f" · plain decoding {screen.baseline:.1f} tokens/s" if screen.baseline else ""
    screen.say(_figures(stats) + plain)


def _figures(stats: Stats) -> str:
    parts = [f"{stats.new_tokens} tokens in {stats.rounds} rounds"]
    if stats.tokens_per_s:
        parts.append(f"{stats.tokens_per_s:.1f} tokens/s")
    if stats.drafted:
        parts.append(f"accepted {look.rate(stats.accepted, stats.drafted, stats.rounds)}")
        parts.append(f"mean acceptance length {stats.mean_acceptance_length:.2f}")
    return " · ".join([*parts, f"prompts read in {stats.prefill_s:.2f} s"])


async def _compare(screen: ChatScreen, _: str) -> None:
    from specctl.tui.race import RaceScreen

    last = screen.talked.undo()
    if last is None:
        screen.say("there is no prompt to race with yet")
        return
    messages = screen.talked.messages(last.user)
    screen.talked.exchanges.append(last)
    screen.app.push_screen(RaceScreen(screen.engine, messages, list(last.events)))


async def _retry(screen: ChatScreen, _: str) -> None:
    last = await _take_back(screen)
    if last:
        screen.attempt += 1
        await screen.ask(last, screen.attempt)


async def _undo(screen: ChatScreen, _: str) -> None:
    last = await _take_back(screen)
    if last:
        screen.query_one("#prompt").fill(last)  # type: ignore[attr-defined]


async def _take_back(screen: ChatScreen) -> str | None:
    last = screen.talked.undo()
    if last is None:
        screen.say("there is nothing to take back")
        return None
    screen.to_drop = 0
    screen.keeper.add([{"undo": 1}])
    screen.show_conversation()
    return last.user


async def _clear(screen: ChatScreen, _: str) -> None:
    screen.start_anew(Conversation(system=screen.talked.system))
    screen.show_conversation()


async def _system(screen: ChatScreen, text: str) -> None:
    if text:
        screen.talked.system = None if text == "none" else text
        screen.keeper.add([{"system": screen.talked.system}])
    screen.say(f"system message: {screen.talked.system or 'none'}")


async def _edit(screen: ChatScreen, _: str) -> None:
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.md"
        path.write_text("", encoding="utf-8")
        with screen.app.suspend():
            subprocess.run([*editor, str(path)], check=False)
        text = path.read_text(encoding="utf-8", errors="replace")
    screen.query_one("#prompt").fill(text.strip())  # type: ignore[attr-defined]


async def _save(screen: ChatScreen, name: str) -> None:
    path = Path(name).expanduser() if name else recording.new_path()
    if path.exists():
        screen.say(f"{path} exists; give another name", "error")
        return
    recording.append(path, whole(screen.talked, screen.profile))
    screen.say(f"saved to {path}")


async def _load(screen: ChatScreen, name: str) -> None:
    if not name:
        names = [path.stem for path in recording.list_sessions()[:20]]
        screen.say("saved: " + (", ".join(names) or "none yet"))
        return
    found = recording.read(recording.find(name))
    if found.profile is None:
        from specctl.tui.replay import ReplayScreen

        screen.app.push_screen(ReplayScreen(found))
        return
    screen.start_anew(found.conversation)
    screen.show_conversation()


async def _export(screen: ChatScreen, name: str) -> None:
    path = Path(name or "chat.md").expanduser()
    with path.open("x", encoding="utf-8") as file:
        file.write(screen.talked.markdown())
    screen.say(f"written to {path}")


async def _copy(screen: ChatScreen, what: str) -> None:
    last = screen.talked.last
    text = last.answer if last else ""
    if what == "code":
        text = next(code_blocks(text), "")
    if not text:
        screen.say("there is nothing to copy")
        return
    screen.app.copy_to_clipboard(text)
    screen.say(f"{len(text)} characters copied, if the terminal allows it")


async def _screenshot(screen: ChatScreen, name: str) -> None:
    path = Path(name or "specctl.svg").expanduser()
    with path.open("x", encoding="utf-8") as file:
        file.write(screen.app.export_screenshot())
    screen.say(f"written to {path}")


async def _quit(screen: ChatScreen, _: str) -> None:
    screen.action_stop()
    screen.app.exit()


COMMANDS = {
    "/help": Command("[NAME]", "commands and keys", _help),
    "/profile": Command("[NAME]", "show or switch the profile; the conversation stays", _profile, idle=True),
    "/set": Command("KEY VALUE", "change a setting, such as temperature 0.8", _set, idle=True),
    "/settings": Command("", "every setting in force", _settings),
    "/stats": Command("[last]", "figures of the chat, or of the last answer", _stats),
    "/compare": Command("", "race the last prompt against plain decoding", _compare, idle=True),
    "/retry": Command("", "answer the last prompt again", _retry, idle=True),
    "/undo": Command("", "take the last exchange back", _undo, idle=True),
    "/clear": Command("", "a new conversation; the system message stays", _clear, idle=True),
    "/system": Command("[TEXT|none]", "show or set the system message", _system),
    "/edit": Command("", "write the prompt in $EDITOR", _edit),
    "/save": Command("[FILE]", "write the chat, with all its rounds, to a file", _save),
    "/load": Command("[NAME|FILE]", "go on with a saved chat, or replay a run", _load, idle=True),
    "/export": Command("[FILE]", "write the conversation as Markdown", _export),
    "/copy": Command("[code]", "copy the last answer, or its first code block", _copy),
    "/screenshot": Command("[FILE]", "write the screen as SVG", _screenshot),
    "/quit": Command("", "leave", _quit),
}
