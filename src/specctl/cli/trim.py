"""`specctl trim`: cut a drafter's head down to the part of the vocabulary the target really uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console, options
from specctl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from specctl.cli.trim_models import Models

EXAMPLES = """Examples:

specctl trim --pair qwen2.5-coder-1.5b --calibrate prompts.jsonl --auto -o qwen-trim

specctl trim --calibrate self --count 400 --size 32k -o qwen-trim

specctl trim -o qwen-trim --size 16k --force --report curve.svg --measure 4

specctl trim --check qwen-trim --prompts new.jsonl

specctl trim -o qwen-trim --export d2t"""

_ANSWERS = ("target", "draft", "text")

Calibrate = Annotated[
    str,
    typer.Option(
        metavar="FILE|self",
        help="Prompts to answer, or answers, in a file; `self`: the model writes prompts itself.",
        rich_help_panel="Calibration",
    ),
]
Answers = Annotated[
    str,
    typer.Option(
        metavar="target|draft|text",
        help="Whose answers are counted; the draft's, or the file's own text, are worse.",
        rich_help_panel="Calibration",
    ),
]
Count = Annotated[int, typer.Option(min=1, help="Prompts of `self`.", rich_help_panel="Calibration")]
NewTokens = Annotated[
    int,
    typer.Option("--max-new-tokens", "-n", min=1, help="Longest answer.", rich_help_panel="Calibration"),
]
BatchSize = Annotated[
    int, typer.Option(min=1, max=64, help="Answers decoded together.", rich_help_panel="Calibration")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Of prompts written by `self`.", rich_help_panel="Calibration")
]
Size = Annotated[
    str | None, typer.Option(metavar="N|32k", help="Rows to keep (k: 1024).", rich_help_panel="Size")
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Keep what covers this share of unseen answers.", rich_help_panel="Size"),
]
Auto = Annotated[
    bool,
    typer.Option(
        "--auto", help="Measure, and keep what promises most tokens/s (the default).", rich_help_panel="Size"
    ),
]
DraftTokens = Annotated[
    int, typer.Option(min=1, max=64, help="Drafted a round, for predictions.", rich_help_panel="Size")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the trimmed head.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the trimmed head that is there.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.svg", help="Draw the curve too.", rich_help_panel="Output")
]
Measure = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Also generate for N prompts at every size, for measured tokens/s.",
        rich_help_panel="Size",
    ),
]
Export = Annotated[
    str | None,
    typer.Option(metavar="d2t|token-map", help="Write the map of DIR as other engines read it."),
]
Check = Annotated[Path | None, typer.Option(metavar="DIR", help="Coverage of a trimmed head on new prompts.")]
Prompts = Annotated[Path | None, typer.Option(metavar="FILE", help="The new prompts, for --check.")]


def trim(
    ctx: typer.Context,
    pair: options.PairName = None,
    target: options.Target = None,
    draft: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The draft model.", rich_help_panel="Models")
    ] = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    calibrate: Calibrate = "self",
    answers: Answers = "target",
    count: Count = 200,
    max_new_tokens: NewTokens = 192,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    size: Size = None,
    coverage: Coverage = None,
    auto: Auto = False,
    draft_tokens: DraftTokens = 5,
    measure: Measure = 0,
    quantize: options.Quantize = None,
    output: Output = None,
    force: Force = False,
    export: Export = None,
    check: Check = None,
    prompts: Prompts = None,
    report: Report = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Keep only the rows of a drafter's vocabulary head that the target's answers need.

    No training, and the output stays the target's. Use the folder by `draft: {trim: DIR}` in a profile.
    """
    _require_one(size, coverage, auto)
    rows = _rows(size)
    from specctl.cli.trim_models import Models

    if export is not None:
        _export(output, export)
        return
    typed = {key: value for key, value in options.typed(ctx).items() if key in _MODEL_FIELDS}
    models = Models.choose(typed, offline=offline, unasked=pull, quiet=quiet or as_json)
    models.quantize = quantize or models.quantize
    if check is not None:
        _check(models, check, prompts, max_new_tokens, batch_size, as_json=as_json)
        return
    if output is None:
        raise RequestError("there is no folder to write to", hint="give one: `-o DIR`")
    if answers not in _ANSWERS:
        raise RequestError(f"`--answers {answers}` is unknown", hint="use target, draft or text")
    from specctl.cli import trim_run

    wish = trim_run.Wish(
        calibrate,
        answers,
        count,
        max_new_tokens,
        batch_size,
        seed,
        rows,
        coverage,
        draft_tokens,
        measure,
    )
    trim_run.run(models, wish, output, force=force, report=report, as_json=as_json, quiet=quiet)
    if quantize is not None:
        models.store(output, quantize)


_MODEL_FIELDS = ("pair", "target", "draft", "dtype", "device")


def _require_one(size: str | None, coverage: float | None, auto: bool) -> None:
    if (size is not None) + (coverage is not None) + auto > 1:
        raise RequestError("`--size`, `--coverage` and `--auto` exclude each other", hint="give one of them")


def _rows(size: str | None) -> int | None:
    """`32k` are 32 × 1024 rows, as in the literature. Raises RequestError."""
    if size is None:
        return None
    digits, unit = (size[:-1], 1024) if size[-1:].lower() == "k" else (size, 1)
    try:
        rows = int(digits) * unit
    except ValueError:
        raise RequestError(f"`--size {size}` is not a number of rows", hint="such as 16384 or 16k") from None
    if rows <= 0:
        raise RequestError(f"`--size {size}` keeps nothing", hint="such as 16384 or 16k")
    return rows


def _export(folder: Path | None, form: str) -> None:
    from specctl.trim import export, job

    if form not in export.FILES:
        raise RequestError(f"`--export {form}` is unknown", hint=f"use {' or '.join(export.FILES)}")
    if folder is None:
        raise RequestError("`--export` needs the folder of a trimmed head", hint="give it: `-o DIR`")
    console.line(str(job.export(folder, form)))


def _check(
    models: Models, folder: Path, prompts: Path | None, new_tokens: int, batch_size: int, *, as_json: bool
) -> None:
    if prompts is None:
        raise RequestError("`--check` needs new prompts", hint="give them: `--prompts FILE`")
    from specctl.cli import trim_run

    trim_run.check(models, folder, prompts, new_tokens, batch_size, as_json=as_json)


def interrupted(done: int, total: int) -> typer.Exit:
    console.note(f"{done} of {total} answers are kept; the same command goes on with the rest", "plain")
    return typer.Exit(ExitCode.INTERRUPTED)
