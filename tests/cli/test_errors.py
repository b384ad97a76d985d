"""Whatever is wrong: one line on standard error, the right exit code, nothing written anywhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cli_scenes
import pytest
from cli_harness import Cli, Done

from specctl.cli import console
from specctl.errors import ExitCode, MachineError

PLAIN = "schema: 1\nabout: x\npair: smollm2-135m\ndrafter: {method: none}\n"
P = ("run", "Hello")

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no such command": (("rnu",), "no such command `rnu`. Did you mean `run`?"),
    "no such option": (("run", "--top-kk", "x"), "no such option: --top-kk"),
    "option without value": (("run", "x", "--top-k"), "requires an argument"),
    "two prompts": (("run", "a", "b"), "unexpected extra argument"),
    "no prompt on a terminal": (("run",), "there is no prompt"),
    "an empty prompt": (("run", ""), "there is no prompt"),
    "a prompt that is not UTF-8": (("run", "caf\udce9"), "the prompt is not UTF-8 text"),
    "a stop that is not UTF-8": ((*P, "--stop", "\udce9"), "is not UTF-8 text"),
    "two documents": ((*P, "--json", "--jsonl"), "exclude each other"),
    "raw with a system message": ((*P, "--raw", "--system", "x"), "exclude each other"),
    "pair and target": ((*P, "--pair", "a", "--target", "b"), "exclude each other"),
    "no tokens": ((*P, "-n", "0"), "`--max-new-tokens` must be at least 1 (got `0`)"),
    "tokens by word": ((*P, "-n", "many"), "`--max-new-tokens`"),
    "half tokens": ((*P, "-n", "1.5"), "`--max-new-tokens`"),
    "hot": ((*P, "-t", "hot"), "`--temperature`"),
    "cold": ((*P, "-t", "-1"), "`--temperature` must be at least 0.0 (got `-1.0`)"),
    "nan": ((*P, "-t", "nan"), "`--temperature` must be a finite number"),
    "infinite": ((*P, "-t", "inf"), "`--temperature` must be"),
    "negative k": ((*P, "--top-k", "-1"), "`--top-k` must be at least 0"),
    "p of 2": ((*P, "--top-p", "2"), "`--top-p` must be at most 1.0"),
    "p of 0": ((*P, "--top-p", "0"), "`--top-p` must be more than 0.0"),
    "min p of -1": ((*P, "--min-p", "-1"), "`--min-p` must be at least 0.0"),
    "no penalty": ((*P, "--repetition-penalty", "0"), "`--repetition-penalty` must be more than 0.0"),
    "negative seed": ((*P, "--seed", "-1"), "`--seed` must be at least 0"),
    "huge seed": ((*P, "--seed", "9" * 30), "`--seed` must be less than"),
    "empty stop": ((*P, "--stop", ""), "`--stop` must not be empty"),
    "too many stops": ((*P, *["--stop=x"] * 17), "`--stop` must have at most 16 entries"),
    "acceptor": ((*P, "--accept", "all"), "`--accept` must be `rejection` or `coupled`"),
    "numerics": ((*P, "--numerics", "fast"), "`--numerics` must be `invariant` or `native`"),
    "dtype": ((*P, "--dtype", "int8"), "`--dtype` must be `auto`"),
    "device": ((*P, "--device", "gpu"), "`--device` must be auto, cpu"),
    "no draft tokens": ((*P, "--draft-tokens", "0"), "`--draft-tokens` must be at least 1"),
    "65 draft tokens": ((*P, "--draft-tokens", "65"), "`--draft-tokens` must be at most 64"),
    "draft tokens in words": (
        (*P, "-p", "ngram", "--draft-tokens", "many"),
        "`--draft-tokens` must be a whole number or `auto`",
    ),
    "a part of a draft token": (
        (*P, "-p", "ngram", "--draft-tokens", "1.5"),
        "`--draft-tokens` must be a whole number or `auto`",
    ),
    "idle draft tokens": ((*P, "-p", "plain", "--draft-tokens", "2"), "of no use to method `none`"),
    "two at once": ((*P, "-n", "0", "--seed", "-1"), "(got `-1`); `--max-new-tokens` must"),
    "unknown profile": ((*P, "-p", "ngrm"), "no profile `ngrm` (did you mean `ngram`?"),
    "impossible profile": ((*P, "-p", "NGRAM"), "`NGRAM` cannot be a profile's name"),
    "profile path": ((*P, "-p", "../../x.yaml"), "there is no file `../../x.yaml`"),
    "profile folder": ((*P, "-p", "./"), "cannot be a profile's name"),
    "profile device": ((*P, "-p", "/dev/zero"), "`/dev/zero` is not a file"),
    "unknown pair": ((*P, "--pair", "smolm2-135m"), "did you mean `smollm2-135m`"),
    "pair without draft": ((*P, "-p", "draft-model", "--pair", "smollm2-135m"), "has no draft model"),
    "target without draft": ((*P, "-p", "draft-model", "--target", "smollm2-135m"), "`--draft` is missing"),
    "pull nothing": (("pull",), "missing argument"),
    "pull a typo": (("pull", "smolm2-135m"), "did you mean `smollm2-135m`"),
    "show nothing": (("profiles", "show"), "missing argument"),
    "show a typo": (("profiles", "show", "plian"), "did you mean `plain`?"),
    "copy a typo": (("profiles", "copy", "plian"), "no profile `plian`"),
    "copy outside": (("profiles", "copy", "plain", "../x"), "`../x` cannot be a profile's name"),
    "copy to a device": (("profiles", "copy", "plain", "con"), "`con` cannot be a profile's name"),
    "check a typo": (("profiles", "check", "plian"), "no profile `plian`"),
    "path of a typo": (("profiles", "path", "plian"), "no profile `plian`"),
    "no such profiles command": (("profiles", "lst"), "no such command `lst`. Did you mean `list`?"),
    "no such models command": (("models", "remove"), "no such command `remove`"),
}


def assert_one_line(done: Done, code: ExitCode, home: Path) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.err), done.err
    assert not home.exists(), "something was written"


@pytest.mark.parametrize("case", WRONG, ids=list(WRONG))
def test_a_wrong_request_is_one_line_and_exit_code_2(cli: Cli, home: Path, case: str) -> None:
    argv, message = WRONG[case]
    done = cli(*argv)
    assert_one_line(done, ExitCode.REQUEST, home)
    assert message in done.err


def test_a_right_request_is_not_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])
    assert cli("run", "Hello", "-n", "5", "-t", "0.5", "--stop", "x").code == ExitCode.OK


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "there is no prompt"),
        (b"\n", "there is no prompt"),
        (b"caf\xe9", "standard input is not UTF-8 text (byte 0xe9 at offset 3)"),
        (b"x" * 8_000_001, "standard input is larger than 8 MB"),
    ],
)
@pytest.mark.parametrize("argv", [("run",), ("run", "-")])
def test_wrong_standard_input(
    cli: Cli, home: Path, argv: tuple[str, ...], stdin: bytes, message: str
) -> None:
    done = cli(*argv, stdin=stdin)
    assert_one_line(done, ExitCode.REQUEST, home)
    assert message in done.err


@pytest.mark.parametrize(
    "argv",
    [
        ("run", "Hello"),
        ("run", "Hello", "--offline", "--json"),
        ("pull", "smollm2-135m", "--offline"),
        ("pull", "someone/something", "--offline"),
        ("models", "path", "smollm2-135m"),
        ("models", "rm", "smollm2-135m"),
        ("run", "Hello", "--target", "../x"),
        ("run", "Hello", "--target", "./x.gguf"),
    ],
)
def test_what_is_not_there_is_exit_code_3(cli: Cli, home: Path, argv: tuple[str, ...]) -> None:
    done = cli(*argv)
    assert_one_line(done, ExitCode.MISSING, home)


def test_a_large_model_is_not_fetched_unasked(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    done = cli("run", "-p", "draft-model", "-", stdin=b"Hello")
    assert_one_line(done, ExitCode.MISSING, home)
    assert re.search(
        r"`qwen2.5-coder-1.5b` and `qwen2.5-coder-0.5b` not on disk \(4[.\d]* GB to fetch", done.err
    )
    assert "run `specctl pull qwen2.5-coder-1.5b`, or add --pull" in done.err


def test_a_bad_profile_names_all_its_mistakes_in_one_line(cli: Cli, home: Path) -> None:
    Path("bad.yaml").write_text(PLAIN + "accept: x\nmax_new_tokens: 0\n")
    done = cli("run", "-p", "bad.yaml", "Hello")
    assert_one_line(done, ExitCode.REQUEST, home)
    assert "bad.yaml:5: accept: must be" in done.err
    assert "; bad.yaml:6: max_new_tokens: must be at least 1 (got `0`) (" in done.err


def test_a_bug_is_exit_code_70_with_the_traceback_in_a_file(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise KeyError("hf_abcdefghij\nsecond line")

    cli_scenes.install(monkeypatch, crash)
    done = cli("run", "Hello")
    assert done.code == ExitCode.BUG
    assert re.fullmatch(r"error: this is a bug in specctl: KeyError: [^\n]+\n", done.err)
    (log,) = home.glob("cache/log/crash-*.log")
    assert str(log) in done.err
    assert "in crash" in log.read_text()
    assert "hf_abcdefghij" not in done.err + log.read_text()


def test_debug_adds_the_traceback_masked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECCTL_DEBUG", "1")

    def crash() -> None:
        raise MachineError("token hf_abcdefghij")

    cli_scenes.install(monkeypatch, crash)
    done = cli("run", "Hello")
    assert done.code == ExitCode.MACHINE
    assert "Traceback" in done.err
    assert done.err.endswith("error: token hf_***\n")
    assert "hf_abcdefghij" not in done.err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_names_two_smaller_settings(
    cli: Cli, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst() -> None:
        raise error

    cli_scenes.install(monkeypatch, burst)
    done = cli("run", "Hello", "--dtype", "float32", "-n", "100")
    assert done.code == ExitCode.MACHINE
    assert done.err == (
        "error: out of memory: smollm2-135m, dtype float32, batch 1, 100 new tokens "
        "(try `--dtype bfloat16` or `--max-new-tokens 50`)\n"
    )


def test_other_runtime_errors_are_bugs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise RuntimeError("shapes")

    cli_scenes.install(monkeypatch, crash)
    assert cli("run", "Hello").code == ExitCode.BUG


def test_ctrl_c_outside_a_run_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specctl.store.fetch.plan", stop)
    done = cli("pull", "smollm2-135m", "--dry-run")
    assert (done.code, done.out, done.err) == (ExitCode.INTERRUPTED, "", "")


def test_errors_show_control_characters_and_stay_on_one_line(cli: Cli) -> None:
    done = cli("run", "x", "-p", "a\x1b]0;title\x07\n\u202eb")
    assert done.err.startswith("error: `a␛]0;title␇⏎<U+202E>b` cannot be")
    assert done.err.count("\n") == 1


def test_a_full_disk_under_standard_output_is_a_machine_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            raise OSError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(MachineError, match="No space left"):
        console.out("x")


def test_a_full_disk_anywhere_is_a_machine_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    cli_scenes.install(monkeypatch, full)
    done = cli("run", "Hello")
    assert done.code == ExitCode.MACHINE
    assert done.err == "error: cannot write: No space left on device (free some disk space)\n"


def test_the_documented_exit_codes_are_the_real_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == {code.name: code.value for code in ExitCode}


def test_help_lists_the_exit_codes(cli: Cli) -> None:
    done = cli("--help")
    for code in ExitCode:
        assert re.search(rf"\b{code.value}\b", done.out)
