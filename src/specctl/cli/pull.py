"""`specctl pull`: put a model or a pair on disk, ready to load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console
from specctl.cli.options import Json, Offline, Quantize, Quiet, complete_pair
from specctl.cli.progress import progress, size

if TYPE_CHECKING:
    from specctl.models.quantize import Scheme
    from specctl.store.fetch import Fetched, Plan, PlannedFile
    from specctl.store.registry import Model

EXAMPLES = """Examples:

specctl pull smollm2-135m

specctl pull qwen2.5-coder-1.5b --dry-run

specctl pull qwen2.5-coder-0.5b --quantize int4

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
    quantize: Quantize = None,
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
        plan = fetch.plan(what, offline=offline)
        if quantize is not None:
            copies = [_planned(model, quantize) for model in fetch.resolve(what).models]
            plan = replace(plan, files=(*plan.files, *copies))
        _show_plan(plan, as_json)
        return
    with progress(quiet=quiet or as_json) as shown:
        fetched = fetch.fetch_pair(what, offline=offline, progress=shown)
    drafts = {} if quantize is None else _quantized(what, fetched, quantize)
    if as_json:
        draft = None if fetched.draft is None else str(fetched.draft)
        made = {"quantized": {name: str(path) for name, path in drafts.items()}} if drafts else {}
        console.document({"schema": 1, "target": str(fetched.target), "draft": draft, **made})
        return
    for name, path in (("target", fetched.target), ("draft", fetched.draft), *drafts.items()):
        if path is not None:
            console.line(str(path) if quiet else f"{name}  {path}")


def _quantized(what: str, fetched: Fetched, scheme: Scheme) -> dict[str, Path]:
    """A stored draft of each model: of a pair's draft, and of its target for drafting by itself."""
    from specctl import paths
    from specctl.cli import log
    from specctl.models import cheap
    from specctl.models.load import load
    from specctl.store import fetch, files, quantized

    log.noise_to_file()
    made = {}
    for model, folder in zip(fetch.resolve(what).models, (fetched.target, fetched.draft), strict=False):
        assert folder is not None
        files.ensure_space(
            paths.quantized_dir(), quantized.estimate(folder, scheme), f"{model.name} {scheme}"
        )
        made[f"{model.name}.{scheme}"] = cheap.stored_path(
            load(folder, name=model.name, device="cpu", native=True), scheme
        )
    return made


def _planned(model: Model, scheme: str) -> PlannedFile:
    """What a stored draft would take, about."""
    from specctl.store import fetch, quantized

    folder = fetch.find(model)
    if folder is not None:
        n_bytes: int | None = quantized.estimate(folder, scheme)
    else:
        n_bytes = None if model.bytes is None else quantized.of_bytes(model.bytes, scheme)
    name = f"{quantized.slug(model.name)}.{scheme}"
    there = any(one.name == name for one in quantized.listing())
    return fetch.PlannedFile(model.name, name, n_bytes, there, "made here (about)")


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
