"""`specctl run` in a pipe: plain bytes, documents with the promised keys, quiet ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_scenes
import pytest
from cli_harness import Cli

from specctl.cli import answer, prompts
from specctl.errors import ExitCode
from specctl.events import from_json
from specctl.profile.schema import Profile

FIGURES = "6 tokens · 20.0 tokens/s · 3 rounds · accepted 3 of 5 · mean acceptance length 2.00\n"
SCRIPT = Path(__file__).with_name("cli_scenes.py")


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> None:
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])


@pytest.mark.usefixtures("sky")
class TestPipe:
    def test_the_answer_alone_is_on_standard_output(self, cli: Cli) -> None:
        done = cli("run", "Hello")
        assert (done.code, done.out, done.err) == (0, " The sky is blue!\n\n", FIGURES)

    def test_quiet_says_nothing_else(self, cli: Cli) -> None:
        assert cli("run", "Hello", "-q").err == ""

    def test_show_draft_goes_to_standard_error(self, cli: Cli) -> None:
        done = cli("run", "Hello", "--show-draft")
        assert done.out == " The sky is blue!\n\n"
        assert done.err == " The sky is[- red now-] blue!\n\n" + FIGURES

    def test_force_color_paints_standard_error_only(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        done = cli("run", "Hello", "--show-draft")
        assert done.out == " The sky is blue!\n\n"
        assert "\x1b[31;9m red now\x1b[0m" in done.err

    def test_verbose_names_the_origin_of_every_value(self, cli: Cli) -> None:
        lines = cli("run", "Hello", "-v", "--seed", "3").err.splitlines()
        assert "sampling.seed = 3  [typed]" in lines
        assert 'pair = "smollm2-135m"  [profile default]' in lines
        assert "target = null  [default]" in lines
        assert lines[-1] == "prefill 0.50 s · decoding 0.30 s (drafting 0.06, verifying 0.21)"

    def test_a_default_typed_out_still_counts_as_typed(self, cli: Cli) -> None:
        assert "sampling.seed = 0  [typed]" in cli("run", "Hello", "-v", "--seed", "0").err.splitlines()


def test_controls_pass_a_pipe_unchanged(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["hostile"])
    assert cli("run", "Hello", "-q").out == "a\x1b]52;c;AAAA\x07b\x1b[2J\x9b31mc\u202e\n"


def test_from_fifty_rounds_on_there_is_a_percentage(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli_scenes.install(monkeypatch, lambda: cli_scenes.stream([(("a", "b"), 1, "c")] * 50))
    assert "accepted 50 of 100 (50%) · mean acceptance length 2.00" in cli("run", "Hello").err


class TestJson:
    KEYS = (
        "schema text token_ids prompt_tokens finish_reason profile pair dtype device numerics seed stats "
        "tool target draft accept exact"
    )
    STATS = (
        "new_tokens rounds drafted accepted acceptance_rate mean_acceptance_length accepted_per_position "
        "prefill_s decode_s draft_s verify_s tokens_per_s estimated_speedup"
    )

    @pytest.mark.usefixtures("sky")
    def test_the_document_has_the_promised_keys(self, cli: Cli) -> None:
        done = cli("run", "Hello", "--json")
        document = json.loads(done.out)
        assert done.err == ""
        assert set(document) == set(self.KEYS.split())
        assert set(document["stats"]) == set(self.STATS.split())
        assert document["schema"] == 1
        assert document["text"] == " The sky is blue!\n"
        assert document["token_ids"] == [100, 101, 102, 105, 106, 107]
        assert (document["prompt_tokens"], document["finish_reason"]) == (3, "stop")
        assert (document["pair"], document["profile"]) == ("smollm2-135m", "default")
        assert document["stats"]["accepted_per_position"] == [2, 1]

    @pytest.mark.usefixtures("sky")
    def test_a_target_of_its_own_is_no_pair(self, cli: Cli) -> None:
        document = json.loads(cli("run", "Hello", "--json", "--target", "smollm2-135m").out)
        assert document["pair"] is None

    def test_controls_are_escaped(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        cli_scenes.install(monkeypatch, cli_scenes.SCENES["hostile"])
        for option in ("--json", "--jsonl"):
            out = cli("run", "Hello", option).out
            assert out.isascii()
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)

    def test_lines_replay_the_run(self, cli: Cli, sky: None) -> None:
        lines = cli("run", "Hello", "--jsonl").out.splitlines()
        assert [from_json(json.loads(line)) for line in lines] == list(cli_scenes.SCENES["sky"]())

    def test_an_interrupted_run_is_still_one_document(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cli_scenes.install(monkeypatch, cli_scenes.SCENES["interrupted"])
        done = cli("run", "Hello", "--json")
        document = json.loads(done.out)
        assert done.code == ExitCode.INTERRUPTED
        assert (document["finish_reason"], document["text"]) == ("cancelled", " The sky is blue")


class TestInterrupt:
    def test_the_first_one_keeps_what_is_there(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        cli_scenes.install(monkeypatch, cli_scenes.SCENES["interrupted"])
        done = cli("run", "Hello")
        assert (done.code, done.out) == (ExitCode.INTERRUPTED, " The sky is blue\n")
        assert done.err.startswith("4 tokens · 20.0 tokens/s")

    def test_the_second_one_ends_at_once(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        cli_scenes.install(monkeypatch, cli_scenes.SCENES["killed"])
        done = cli("run", "Hello")
        assert (done.code, done.out, done.err) == (ExitCode.INTERRUPTED, " The sky is blue", "")

    def test_where_ctrl_c_is_ignored_it_stays_so(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            cli_scenes.install(monkeypatch, cli_scenes.SCENES["interrupted"])
            assert cli("run", "Hello").code == ExitCode.OK
        finally:
            signal.signal(signal.SIGINT, before)

    def test_afterwards_ctrl_c_is_as_before(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        before = signal.getsignal(signal.SIGINT)
        for scene in ("sky", "interrupted", "killed"):
            cli_scenes.install(monkeypatch, cli_scenes.SCENES[scene])
            cli("run", "Hello")
            assert signal.getsignal(signal.SIGINT) is before


class TestProcess:
    """What only a process of its own shows."""

    def start(self, *argv: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, str(SCRIPT), *argv]
        return subprocess.run(command, stderr=subprocess.PIPE, timeout=120, check=False, **streams)

    def test_head_ends_it_quietly(self, home: Path) -> None:
        ours, theirs = os.pipe()
        command = [sys.executable, str(SCRIPT), "long", "run", "Hello"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        assert os.read(ours, 5) == b"word "
        os.close(ours)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")

    def test_a_prompt_from_a_pipe(self, home: Path) -> None:
        done = self.start("sky", "run", "-q", input=b"Hello", stdout=subprocess.PIPE)
        assert (done.returncode, done.stdout, done.stderr) == (0, b" The sky is blue!\n\n", b"")

    @pytest.mark.parametrize("locale", ["C", "POSIX"])
    def test_a_poor_locale_writes_escapes_instead_of_failing(self, home: Path, locale: str) -> None:
        poor = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        done = self.start("hostile", "run", "-q", input=b"x", stdout=subprocess.PIPE, env=poor)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.endswith(b"\\x9b31mc\\u202e\n")

    def test_an_interrupt_is_130(self, home: Path) -> None:
        done = self.start("interrupted", "run", "x", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert (done.returncode, done.stdout) == (130, b" The sky is blue\n")
        assert done.stderr.decode().startswith("4 tokens")

    def test_module_and_script_are_one(self, home: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "specctl", "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert re.fullmatch(r"specctl \d+\.\d+\.\d+\n", done.stdout)


class TestPrompt:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Profile]]:
        seen: list[tuple[str, Profile]] = []

        def note(profile: Profile, choice: object, prompt: str, wish: object) -> str:
            seen.append((prompt, profile))
            return "stop"

        monkeypatch.setattr(answer, "answer", note)
        return seen

    @pytest.mark.parametrize(
        ("argv", "stdin", "prompt"),
        [
            (("Hello",), None, "Hello"),
            (("Hello",), b"", "Hello"),
            (("Summarise.",), b"Long text\n", "Long text\n\nSummarise."),
            ((), b"Long text\n", "Long text"),
            (("-",), "naïve\n\n".encode(), "naïve\n"),
            (("--", "-t"), None, "-t"),
        ],
    )
    def test_where_it_comes_from(
        self,
        cli: Cli,
        asked: list[tuple[str, Profile]],
        argv: tuple[str, ...],
        stdin: bytes | None,
        prompt: str,
    ) -> None:
        assert cli("run", *argv, stdin=stdin).code == 0
        assert asked[0][0] == prompt

    def test_typed_options_reach_the_settings(self, cli: Cli, asked: list[tuple[str, Profile]]) -> None:
        options = "-t 0.8 --top-k 40 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.1 --seed 7"
        others = "-n 9 --stop a --stop b"
        more = "--accept coupled --numerics native --dtype float32 --device cpu --draft-tokens 3 --system S"
        assert cli("run", "Hello", *options.split(), *others.split(), *more.split()).code == 0
        profile = asked[0][1]
        assert profile.sampling.model_dump() == {
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.9,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "seed": 7,
        }
        assert (profile.max_new_tokens, profile.stop, profile.system) == (9, ["a", "b"], "S")
        assert (profile.accept, profile.numerics) == ("coupled", "native")
        assert (profile.dtype, profile.device) == ("float32", "cpu")
        assert profile.drafter.model_dump()["draft_tokens"] == 3

    def test_nothing_typed_leaves_the_profile_alone(self, cli: Cli, asked: list[tuple[str, Profile]]) -> None:
        from specctl.profile import read

        assert cli("run", "Hello", "-p", "ngram").code == 0
        assert asked[0][1] == read.load("ngram")

    def test_text_is_checked_for_what_tokenizers_take(self) -> None:
        prompts.require_text("x", "naïve 漢字")
