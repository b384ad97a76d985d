"""`specctl profiles`: look at the settings there are, copy one, check one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from specctl import paths
from specctl.cli import console
from specctl.cli.options import Json, complete_profile
from specctl.errors import ExitCode, MachineError, RequestError
from specctl.profile import files

app = typer.Typer(
    name="profiles",
    help="Settings by name: list, show, copy, check.",
    no_args_is_help=False,
    epilog="A profile is one YAML file; docs/profiles.md explains every field.",
)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", autocompletion=complete_profile)]


@app.callback(invoke_without_command=True)
def _profiles(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_(as_json=False)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every profile, where it comes from and what it is for."""
    found = [(one, files.about(one.path)) for one in files.list_profiles()]
    if as_json:
        rows = [
            {
                "name": one.name,
                "source": one.source,
                "path": str(one.path),
                "shadowed": one.shadowed,
                "about": text,
            }
            for one, text in found
        ]
        console.document({"schema": 1, "profiles": rows})
        return
    console.table(
        ("name", "source", "about"),
        [
            (one.name, one.source + (" (hidden by a nearer one)" if one.shadowed else ""), text)
            for one, text in found
        ],
    )


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """The values in force: what the file says, and the defaults for the rest."""
    import yaml

    from specctl.profile import read
    from specctl.profile.schema import effective

    found = files.find(name)
    values = effective(read.load(name))
    if as_json:
        console.document({"name": found.name, "source": found.source, "path": str(found.path), **values})
        return
    console.line(f"# {found.name} ({found.source}): {found.path}")
    for text in yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100).splitlines():
        console.line(text)


@app.command(epilog="Example: specctl profiles copy default mine")
def copy(
    name: Name,
    new_name: Annotated[str | None, typer.Argument(help="Name of the copy; the same if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
) -> None:
    """Copy a profile to your own folder, to be edited; prints its path."""
    found = files.find(name)
    files.require_name(new_name or found.name)
    to = paths.user_profiles_dir() / f"{new_name or found.name}.yaml"
    if to.exists() and not force:
        raise RequestError(f"`{to}` exists", hint="give another name, or --force to replace it")
    try:
        content = found.path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read `{found.path}`: {error.strerror or error}") from None
    _write(to, content)
    schema = paths.shipped_profiles_dir() / "profile.schema.json"
    _write(to.with_name(schema.name), schema.read_bytes())
    console.line(str(to))


def _write(to: Path, content: bytes) -> None:
    """Whole or not at all. Raises MachineError."""
    partial = ""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, to)
    except OSError as error:
        Path(partial).unlink(missing_ok=True) if partial else None
        raise MachineError(f"cannot write `{to}`: {error.strerror or error}") from None


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]...", help="All if left out.", autocompletion=complete_profile),
    ] = None,
) -> None:
    """Every problem with its file and line; exit code 1 if there is one."""
    from specctl.cli import choice
    from specctl.profile import read

    if names:
        found = [files.find(name) for name in names]
    else:
        found = files.list_profiles()
    bad = False
    for one in found:
        problems = read.check(one)
        if not problems:
            problems = [f"{one.path}: {what}" for what in choice.problems(read.load(str(one.path)))]
        bad = bad or bool(problems)
        for problem in problems:
            console.line(problem)
        if not problems:
            console.note(f"{one.path}: ok", "plain")
    if bad:
        raise typer.Exit(ExitCode.NO)


@app.command()
def path(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", autocompletion=complete_profile)] = None,
) -> None:
    """The file of a profile; without a name, the folder your own profiles are in."""
    console.line(str(files.find(name).path if name else paths.user_profiles_dir()))
