"""`specctl pull`: put a model or a pair on disk, ready to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console
from specctl.cli.options import Json, Offline, Quiet, complete_pair
from specctl.cli.progress import progress, size

if TYPE_CHECKING:
    from specctl.store.fetch import Plan

EXAMPLES = """Examples:

specctl pull smollm2-135m

specctl pull qwen2.5-coder-1.5b --dry-run

specctl pull HuggingFaceTB/SmolLM2-360M-Instruct@main

specctl pull ./model.gguf -q"""


def pull(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PAIR|OWNER/REPO[@REV]|PATH",
            help="A pair by name, a hub repository, a folder or a .gguf file.",
            autocompletion=complete_pair,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be fetched, and how much.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Fetch a pair or a model, once; what is on disk already is not fetched again."""
    from specctl.store import fetch

    if dry_run:
        _show_plan(fetch.plan(what, offline=offline), as_json)
        return
    with progress(quiet=quiet or as_json) as shown:
        fetched = fetch.fetch_pair(what, offline=offline, progress=shown)
    if as_json:
        draft = None if fetched.draft is None else str(fetched.draft)
        console.document({"schema": 1, "target": str(fetched.target), "draft": draft})
        return
    for name, path in (("target", fetched.target), ("draft", fetched.draft)):
        if path is not None:
            console.line(str(path) if quiet else f"{name}  {path}")


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        files = [
            {
                "model": file.model,
                "name": file.name,
                "bytes": file.bytes,
                "cached": file.cached,
                "source": file.source,
            }
            for file in plan.files
        ]
        totals = {"total_bytes": plan.total_bytes, "missing_bytes": plan.missing_bytes}
        console.document({"schema": 1, "files": files, **totals, "notes": list(plan.notes)})
        return
    console.table(
        ("model", "file", "size", "on disk", "source"),
        [
            (file.model, file.name, size(file.bytes), "yes" if file.cached else "no", file.source)
            for file in plan.files
        ],
    )
    console.line(f"total {size(plan.total_bytes)}, to fetch {size(plan.missing_bytes)}")
    for note in plan.notes:
        console.note(note)
