"""What must feel instant imports nothing heavy, and the vocabulary needs neither torch nor an interface."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "textual", "huggingface_hub", "numpy", "yaml", "jinja2")
INTERFACE = ("rich", "typer", "textual", "specctl.cli")


def imported_by(code: str, names: tuple[str, ...]) -> tuple[list[str], str]:
    """Which of `names` a fresh interpreter has imported after `code`, and what it wrote."""
    tell = f"json.dump(sorted(set({names!r}) & set(sys.modules)), sys.stderr)"
    probe = f"{code}\nimport json, sys\n{tell}"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


def command(*argv: str) -> str:
    return f"from specctl.cli.main import main\nmain({list(argv)!r})"


@pytest.mark.parametrize("argv", [("--help",), ("--version",), ("run", "--help"), ("profiles", "--help"), ()])
def test_help_imports_nothing_heavy(argv: tuple[str, ...]) -> None:
    found, output = imported_by(command(*argv), HEAVY)
    assert found == []
    assert "specctl" in output


@pytest.mark.parametrize("argv", [("--help",), ("--version",)])
def test_the_first_thing_anybody_types_does_not_even_need_pydantic(argv: tuple[str, ...]) -> None:
    # For commands with arguments typer itself imports it, to turn them into numbers.
    assert imported_by(command(*argv), ("pydantic",))[0] == []


def test_listing_profiles_needs_no_schema() -> None:
    found, output = imported_by(command("profiles", "list"), HEAVY)
    assert found == ["yaml"]
    assert "draft-model" in output


@pytest.mark.parametrize(
    "argv", [("run", "--profile", "none-such", "x"), ("run", "-t", "-1", "x"), ("nonsense",)]
)
def test_errors_come_before_torch(argv: tuple[str, ...]) -> None:
    found, _ = imported_by(command(*argv), ("torch", "transformers", "textual"))
    assert found == []


@pytest.mark.parametrize(
    "module", ["events", "errors", "paths", "profile.schema", "profile.read", "profile.files"]
)
def test_the_vocabulary_imports_neither_torch_nor_an_interface(module: str) -> None:
    found, _ = imported_by(f"import specctl.{module}", ("torch", "transformers", *INTERFACE))
    assert found == []


def test_the_probe_does_see_imports() -> None:
    assert imported_by("import json, yaml", ("yaml", "torch"))[0] == ["yaml"]
