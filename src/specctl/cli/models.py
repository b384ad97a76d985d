"""`specctl models`: what is on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from specctl.cli import console
from specctl.cli.options import Json, Quiet
from specctl.cli.progress import size

app = typer.Typer(name="models", help="What is on disk: list, path, rm.")


def _complete(incomplete: str) -> list[str]:
    from specctl.store import inventory

    return [model.name for model in inventory.models() if model.name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=_complete)]


@app.callback(invoke_without_command=True)
def _models(ctx: typer.Context, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        list_(as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every model on disk with its size and where it came from."""
    from specctl.store import inventory

    found = inventory.models()
    if as_json:
        console.document(
            {"schema": 1, "models": [{**asdict(model), "path": str(model.path)} for model in found]}
        )
        return
    console.table(
        ("name", "size", "kind", "source"),
        [(model.name, size(model.bytes), model.kind, model.source) for model in found],
    )
    if not found:
        console.note("nothing yet; `specctl pull smollm2-135m` fetches the default pair", "plain")


@app.command()
def path(name: Name) -> None:
    """The folder of a model, for other programs."""
    from specctl.store import inventory

    console.line(str(inventory.path(name)))


@app.command()
def rm(name: Name, quiet: Quiet = False) -> None:
    """Remove a model from disk: from specctl's own folder, or from the hub's cache."""
    from specctl.store import inventory

    freed = inventory.remove(name)
    if not quiet:
        console.note(f"removed `{name}`, {size(freed)} freed", "plain")
