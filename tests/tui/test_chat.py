"""The chat as one uses it: typed at, stopped, switched, narrowed; with an engine that is a script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from tui_scenes import SKY, ScriptedEngine, chat, said_last, send, settle, shown, stream

from specctl.chat import history, recording
from specctl.chat.conversation import Conversation, Exchange
from specctl.chat.engine import ContextFull
from specctl.errors import MachineError
from specctl.events import Branched
from specctl.tui.chat import ChatScreen
from specctl.tui.commands import COMMANDS
from specctl.tui.palette import SlashCommands
from specctl.tui.talk import Answer

Scene = Callable[[Any, ChatScreen], Awaitable[None]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / name))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


def play(engine: ScriptedEngine, scene: Scene, size: tuple[int, int] = (120, 36), **options: Any) -> str:
    """Runs a scene to its end; returns what the screen shows then."""

    async def run() -> str:
        app, screen = chat(engine, **options)
        async with app.run_test(size=size) as pilot:
            await settle(pilot, screen)
            await scene(pilot, screen)
            await pilot.pause()
            return shown(app)

    return asyncio.run(run())


def test_an_answer_comes_with_its_rounds_and_figures() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "Why is the sky blue?")

    engine = ScriptedEngine()
    text = play(engine, scene)
    assert engine.asked == [[{"role": "user", "content": "Why is the sky blue?"}]]
    assert "The sky is blue!" in text
    assert "␣red ␣now ␣blue" in text
    assert "0/2" in text
    assert "3/5 accepted · mean acceptance length 2.00" in text
    assert "2.00× plain" in text
    assert "default · tiny · cpu bfloat16 · exact" in text


def test_slower_than_plain_is_said_in_words() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")

    engine = ScriptedEngine()
    engine.speed = 40.0
    assert "slower than plain" in play(engine, scene)


def test_a_narrow_terminal_has_two_lines_instead_of_panes() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")

    text = play(ScriptedEngine(), scene, size=(80, 24))
    assert "3/5 accepted" in text
    assert "╭─ Draft" not in text

    async def opened(pilot: Any, screen: ChatScreen) -> None:
        await scene(pilot, screen)
        await pilot.press("f2")

    assert "╭─ Draft" in play(ScriptedEngine(), opened, size=(80, 24))


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
def test_a_generation_stops_within_a_round(key: str) -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        screen.query_one("#prompt").load_text("hello")
        await pilot.press("enter")
        await pilot.press(key)
        engine.go.set()
        await settle(pilot, screen)
        assert screen.talked.last is not None
        assert screen.talked.last.reason == "cancelled"

    engine = ScriptedEngine(SKY * 50, hold=True)
    assert "stopped" in play(engine, scene)


def test_what_is_typed_meanwhile_is_asked_next() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        for text in ("one", "two"):
            screen.query_one("#prompt").load_text(text)
            await pilot.press("enter")
        assert len(engine.asked) <= 1
        engine.go.set()
        for _ in range(200):
            await pilot.pause()
            if len(engine.asked) == 2 and not screen.busy:
                break
        assert [asked[-1]["content"] for asked in engine.asked] == ["one", "two"]
        assert engine.asked[1][1]["content"] == screen.talked.exchanges[0].answer

    engine = ScriptedEngine(hold=True)
    play(engine, scene)


@pytest.mark.parametrize(
    "error",
    [
        MachineError("out of memory", hint="smaller"),
        RuntimeError("[bold]broken[/nonsense"),
        ValueError("\x1b[2J"),
    ],
)
def test_a_failure_is_said_and_the_prompt_comes_back(error: Exception) -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "my question")
        assert screen.query_one("#prompt").text == "my question"
        assert screen.talked.exchanges == []
        engine.error = None
        await pilot.press("enter")
        await settle(pilot, screen)
        assert len(screen.talked.exchanges) == 1

    engine = ScriptedEngine(error=error)
    text = play(engine, scene)
    assert "error: " in text
    assert "\x1b" not in text


def test_a_full_context_says_what_is_dropped() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "one")
        await send(pilot, screen, "two")
        engine.error = ContextFull(200, 100, 1)
        await send(pilot, screen, "three")
        assert "leave out the oldest exchange (“one”)" in said_last(screen)
        engine.error = None
        await pilot.press("enter")
        await settle(pilot, screen)
        assert [m["content"] for m in engine.asked[-1] if m["role"] == "user"] == ["two", "three"]

    engine = ScriptedEngine()
    play(engine, scene)


def test_commands_never_go_to_the_model() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "one")
        await send(pilot, screen, "/nonsense")
        for name in (
            "/help",
            "/settings",
            "/stats",
            "/stats last",
            "/profile",
            "/load",
            "/copy",
            "/copy code",
        ):
            await send(pilot, screen, name)
        await send(pilot, screen, "/system be brief")
        await send(pilot, screen, "/retry")
        await send(pilot, screen, "/export chat.md")
        await send(pilot, screen, "/screenshot")
        assert "be brief" in Path("chat.md").read_text()
        assert Path("specctl.svg").read_text().startswith("<svg")
        await send(pilot, screen, "/undo")
        assert screen.query_one("#prompt").text == "one"
        await send(pilot, screen, "/clear")
        assert screen.talked.exchanges == []
        assert screen.talked.system == "be brief"

    engine = ScriptedEngine()
    play(engine, scene)
    assert [asked[-1]["content"] for asked in engine.asked] == ["one", "one"]
    assert {"/help", "/profile", "/set", "/compare", "/edit", "/save", "/quit"} < set(COMMANDS)


def test_a_switch_of_profile_keeps_the_conversation() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "one")
        await send(pilot, screen, "/profile plain")
        await send(pilot, screen, "/set temperature 0.5")
        await send(pilot, screen, "/set temperature hot")
        await send(pilot, screen, "two")

    engine = ScriptedEngine()
    text = play(engine, scene)
    assert [one.name for one in engine.opened] == ["default", "plain", "plain"]
    assert engine.opened[-1].sampling.temperature == 0.5
    assert len(engine.asked[-1]) == 3
    assert "error: " in text


def test_the_race_finds_no_difference_in_equal_answers() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "one")
        await pilot.press("ctrl+r")
        for _ in range(50):
            await pilot.pause()

    rounds = [((), 0, " a"), ((), 0, " b")]
    assert "1.00× plain decoding · no difference in 2 tokens" in play(ScriptedEngine(rounds), scene)
    assert "first difference at token 1" in play(ScriptedEngine(), scene)


def test_a_chat_is_kept_and_can_be_read_again(tmp_path: Path) -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        for text in ("one", "two", "/undo", "/clear", "/clear"):
            await send(pilot, screen, text)

    path = tmp_path / "chat.jsonl"
    play(ScriptedEngine(), scene, path=path)
    assert path.stat().st_mode & 0o777 == 0o600
    found = recording.read(path)
    assert [one.user for one in found.conversation.exchanges] == ["one"]
    assert found.conversation.exchanges[0].answer.strip() == "The sky is blue!"
    assert len(found.conversation.exchanges[0].events) > 10


def test_keys_can_be_given_others() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await pilot.press("f9")

    assert "race the last prompt" in play(ScriptedEngine(), scene, keymap={"help": "f9"})
    assert "race the last prompt" not in play(ScriptedEngine(), scene)


def test_keys_that_come_fast_stay_in_order() -> None:
    """As a terminal hands them over: nobody waits between two of them."""

    async def scene(pilot: Any, screen: ChatScreen) -> None:
        for character in "why is it\n":
            key = {"\n": "enter", " ": "space"}.get(character, character)
            pilot.app.post_message(Key(key, None if key == "enter" else character))
        for _ in range(20):
            await pilot.pause()
        await settle(pilot, screen)
        assert screen.query_one("#prompt").text == ""

    engine = ScriptedEngine()
    play(engine, scene)
    assert [asked[-1]["content"] for asked in engine.asked] == ["why is it"]


def test_several_lines_and_history() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await pilot.press("a", "ctrl+j", "b", "enter")
        await settle(pilot, screen)
        await pilot.press("up")
        assert screen.query_one("#prompt").text == "a\nb"

    engine = ScriptedEngine()
    play(engine, scene)
    assert engine.asked[0][-1]["content"] == "a\nb"


def test_completion_by_tab() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await pilot.press("slash", "c", "o", "m")
        await pilot.pause()
        assert screen.query_one("#hints").has_class("open")
        await pilot.press("tab")
        assert screen.query_one("#prompt").text == "/compare "

    play(ScriptedEngine(), scene)


def test_with_nothing_on_disk_one_picks_a_pair() -> None:
    async def run() -> str:
        engine = ScriptedEngine()
        engine.lacking = True
        app, screen = chat(engine)
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            text = shown(app)
            await pilot.press("enter")
            await settle(pilot, screen)
        assert engine.opened[0].pair == "smollm2-135m"
        return text

    text = asyncio.run(run())
    assert "270 MB  on disk" in text
    assert "size unknown  to fetch" in text


def test_without_colour_the_verdicts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")
        strips = screen._compositor.render_strips()
        styles = {seg.text: seg.style for strip in strips for seg in strip if seg.style is not None}
        assert styles["␣red"].strike
        assert styles["␣blue"].bold
        assert not styles["␣The"].strike

    play(ScriptedEngine(), scene)


def test_an_offer_that_is_taken_is_kept_in_the_file(tmp_path: Path) -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "one")
        engine.error = ContextFull(200, 100, 1)
        await send(pilot, screen, "two")
        await send(pilot, screen, "/undo")  # another way out: nothing is left out then
        assert screen.to_drop == 0
        engine.error = None
        await send(pilot, screen, "three")
        engine.error = ContextFull(200, 100, 1)
        await send(pilot, screen, "four")
        engine.error = None
        await pilot.press("enter")
        await settle(pilot, screen)

    engine = ScriptedEngine()
    path = tmp_path / "chat.jsonl"
    play(engine, scene, path=path)
    assert [m["content"] for m in engine.asked[-1]] == ["four"]
    found = recording.read(path).conversation
    assert [one.user for one in found.exchanges] == ["three", "four"]
    assert found.left_out == 1


def test_a_prompt_too_long_by_itself_is_said_to_be() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "far too long")
        assert screen.query_one("#prompt").text == "far too long"
        assert screen.to_drop == 0

    assert "shorten the prompt" in play(ScriptedEngine(error=ContextFull(200, 100, 0)), scene)


def test_what_waited_comes_back_too_when_the_engine_fails() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        for text in ("one", "two"):
            screen.query_one("#prompt").load_text(text)
            await pilot.press("enter")
        screen.query_one("#prompt").load_text("thr")
        engine.failing = MachineError("out of memory")
        engine.go.set()
        await settle(pilot, screen)
        assert screen.query_one("#prompt").text == "one\ntwo\nthr"
        assert screen.talked.exchanges == []

    engine = ScriptedEngine(hold=True)
    assert "error: out of memory" in play(engine, scene)


@pytest.mark.parametrize(
    ("reason", "said"),
    [("length", "/set max_new_tokens 512 allows more"), ("context", "the context is full")],
)
def test_why_an_answer_ends_early_is_said(reason: str, said: str) -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")
        assert said in said_last(screen)

    engine = ScriptedEngine()
    engine.reason = reason
    play(engine, scene)


def test_probabilities_are_shown_once_they_are_asked_for() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await pilot.press("f5")
        await settle(pilot, screen)
        await send(pilot, screen, "hello")

    engine = ScriptedEngine([((" The", " sky"), 1, " is", (0.97, 0.004), (0.5, 1.0))])
    text = play(engine, scene)
    assert [one.probabilities for one in engine.opened] == [False, True]
    assert "p .97  .00" in text
    assert "q .50  1.0" in text
    assert "p: target's, q: drafter's" in text


def test_a_method_may_have_a_word_for_its_round() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")
        screen.run_shown.add(Branched(0, 2, 0, ((0, 9), (1, 7)), True, (" sea\x1b[2J", " is")))
        screen.run_shown.add(Branched(0, 99, 0, ((1, 7),), False))
        screen.show_run()

    text = play(ScriptedEngine([((" The", " sky"), 1, " is"), ((" The", " sky"), 1, " is")]), scene)
    assert "↳ 2 ahead, hit  1 ␣is  0 ␣sea" in text, "the one that came first"
    assert "\x1b[2J" not in text
    assert "1 ahead" not in text, "of a round that is not shown"


def test_completions_are_chosen_by_arrows_too() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        prompt = screen.query_one("#prompt")
        await pilot.press("slash", "s", "e", "t", "down", "down", "enter")
        assert prompt.text == "/settings "
        await pilot.press("enter")
        await settle(pilot, screen)
        await pilot.press("slash", "s", "e", "t", "up", "tab")
        assert prompt.text == "/settings "
        await pilot.press("escape")
        assert not screen.query_one("#hints").has_class("open")

    engine = ScriptedEngine()
    assert "probabilities" in play(engine, scene)
    assert engine.asked == []


def test_prompts_are_remembered_in_the_next_chat(tmp_path: Path) -> None:
    async def asks(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "remember me")

    async def recalls(pilot: Any, screen: ChatScreen) -> None:
        await pilot.press("up")
        recalled.append(screen.query_one("#prompt").text)

    recalled: list[str] = []
    play(ScriptedEngine(), asks)
    play(ScriptedEngine(), recalls, path=tmp_path / "a.jsonl")
    play(ScriptedEngine(), asks, path=tmp_path / "b.jsonl")
    play(ScriptedEngine(), recalls, path=tmp_path / "c.jsonl")
    assert recalled == ["", "remember me"], "a chat that keeps nothing remembers nothing"
    assert history.path().stat().st_mode & 0o777 == 0o600


def test_a_resumed_chat_shows_its_last_rounds_and_a_wider_terminal_has_panes() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        assert "╭─ Draft" not in shown(pilot.app)
        assert "3/5 accepted" in shown(pilot.app)
        await pilot.resize_terminal(120, 36)
        await pilot.pause()

    exchange = Exchange("earlier")
    for event in stream(SKY):
        exchange.add(event)
    text = play(ScriptedEngine(), scene, size=(80, 24), resumed=Conversation(exchanges=[exchange]))
    assert "❯ earlier" in text
    assert "3/5 accepted" in text


def test_leaving_ends_the_answer() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        screen.query_one("#prompt").load_text("hello")
        await pilot.press("enter")
        await pilot.press("ctrl+q")

    engine = ScriptedEngine(SKY * 100, hold=True)
    play(engine, scene)
    assert engine.ended == "cancelled"


def test_all_of_a_long_answer_can_be_scrolled_to() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        await send(pilot, screen, "hello")
        assert "paragraph 79." in shown(pilot.app), "it stays at the end"
        answer = screen.talk.parts[-1]
        assert isinstance(answer, Answer)
        assert screen.talked.exchanges[0].answer == answer.text
        assert answer.text.count("paragraph") == 80
        screen.talk.scroll_home(animate=False, immediate=True)
        await pilot.pause()
        screen.talk.say("a notice")
        await pilot.pause()

    text = play(ScriptedEngine([((), 0, f"paragraph {n}.\n\n") for n in range(80)]), scene)
    assert "paragraph 0." in text, "and away from it once one has scrolled"
    assert "a notice" not in text


def test_the_palette_has_the_commands() -> None:
    async def scene(pilot: Any, screen: ChatScreen) -> None:
        provider = SlashCommands(screen)
        assert len([hit async for hit in provider.discover()]) == len(COMMANDS)
        for wanted, said in (("every setting", "/settings"), ("system message", "/system")):
            hits = [hit async for hit in provider.search(wanted)]
            assert said in [str(hit.text) for hit in hits]
            await next(hit for hit in hits if str(hit.text) == said).command()
        assert screen.query_one("#prompt").text == "/system "

    assert "max_new_tokens" in play(ScriptedEngine(), scene)
