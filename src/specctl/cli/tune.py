"""`specctl tune`: the fastest settings for a pair on this machine, as a profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console, options, tune_show
from specctl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from specctl.bench.tune import Tuning
    from specctl.profile.schema import Profile

EXAMPLES = """Examples:

specctl tune -o mine.yaml

specctl tune --pair qwen2.5-coder-1.5b --budget 10m -o qwen.yaml

specctl tune --prompts my-prompts.jsonl --trim qwen-trim --json"""

_UNITS = {"s": 1, "m": 60, "h": 3600}

Prompts = Annotated[
    str, typer.Option(metavar="builtin|FILE", help="What is tuned for: JSONL or text, a prompt a line.")
]
Budget = Annotated[
    str, typer.Option(metavar="TIME", help="How long it may take, loading apart: `90s`, `5m`, `1h`.")
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", "-n", min=4, help="Longest answer while tuning.")]
Trim = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Also try the draft with this trimmed head (`specctl trim`)."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="PROFILE.yaml", help="Write the best settings there.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")]


def tune(
    ctx: typer.Context,
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    prompts: Prompts = "builtin",
    budget: Budget = "5m",
    max_new_tokens: Tokens = 64,
    trim: Trim = None,
    numerics: options.Numerics = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    output: Output = None,
    force: Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find drafter, draft length and threshold for a pair, and write them as a profile.

    Plain answers are recorded once with what each draft would have said. From that and measured costs the speed of
    every setting follows; the best few are then run, in turns with plain decoding. It may find that drafting does
    not pay here: then the profile says plain decoding, and the reasons are printed.
    """
    from specctl.bench import suites
    from specctl.bench import tune as tuning
    from specctl.cli import lineup
    from specctl.cli.interrupt import Interrupt
    from specctl.cli.status import StatusLine
    from specctl.profile import override, read

    seconds = budget_seconds(budget)
    if output is not None:
        _require_free(output, force=force)
    chosen = suites.tuning() if prompts == "builtin" else suites.read(Path(prompts))
    typed = {key: value for key, value in options.typed(ctx).items() if key != "max_new_tokens"}
    base = override.merge(read.load("auto"), typed)
    longest = max((prompt.text for prompt in chosen), key=len)
    silent = quiet or as_json
    opened = lineup.open_all(
        [lineup.plain(base), *sources(base, trim)], longest, 1, offline=offline, unasked=pull, quiet=silent
    )
    status = StatusLine(under_text=False)
    told = status.show if console.is_live(sys.stderr) and not silent else _nothing
    try:
        with Interrupt() as interrupt:
            sessions = [one.session for one in opened]
            found = tuning.tune(
                sessions, chosen, max_new_tokens, seconds, cancelled=interrupt.asked, told=told
            )
    finally:
        status.hide()
    if interrupt.asked():
        if found.measured:
            tune_show.show(found, as_json=as_json)
        console.note("interrupted: no profile is written")
        raise typer.Exit(ExitCode.INTERRUPTED)
    if output is not None:
        _write(output, _best_profile(base, found))
    tune_show.show(found, as_json=as_json)
    if output is not None and not silent:
        console.note(f"written to {output}: `specctl run -p {output}`")


def _nothing(text: str) -> None:
    """Nobody watches."""


def sources(base: Profile, trim: Path | None) -> list[Profile]:
    """A profile for each way to draft to be tried: the pair's draft, if it has one, and the target's own weights.

    A trimmed head belongs to the pair's draft, or to the target where there is none.
    """
    from specctl.cli import choice
    from specctl.profile.schema import Profile, effective

    has_draft = choice.choose(base).draft is not None
    drafts = [("draft-model", bits) for bits in (None, "int8", "int4")] if has_draft else [("self", "int8")]
    model = base.draft.model if base.draft else None
    found = []
    for method, bits in (*drafts, ("self", "int4")):
        for head in (None,) if trim is None or (method == "self") == has_draft else (None, str(trim)):
            name = " ".join(filter(None, (method.removesuffix("-model"), bits, head and "trimmed")))
            draft = {"model": model if method == "draft-model" else None, "quantize": bits, "trim": head}
            data = {**effective(base), "drafter": {"method": method}, "draft": draft, "accept": "rejection"}
            found.append(Profile.model_validate({**data, "name": name}))
    return found


def budget_seconds(text: str) -> float:
    """Seconds of `90s`, `5m`, `1h` or `300`. Raises RequestError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdigit() and 1 <= int(number) * _UNITS[unit] <= 86_400):
        raise RequestError(f"`--budget {text[:40]}` is no time up to a day", hint="for example `90s` or `5m`")
    return float(int(number) * _UNITS[unit])


def _require_free(path: Path, *, force: bool) -> None:
    """Before anything is measured. Raises RequestError, ProfileError."""
    from specctl.profile import files

    if path.suffix not in (".yaml", ".yml"):
        raise RequestError(f"`{path}` is no name for a profile", hint="let it end in `.yaml`")
    files.require_name(path.stem)
    if path.exists() and not force:
        raise RequestError(f"`{path}` exists", hint="give another name, or --force to replace it")


def _best_profile(base: Profile, tuning: Tuning) -> Profile:
    from datetime import UTC, datetime

    from specctl.cli import lineup

    today = datetime.now(UTC).date().isoformat()
    about = f"tuned {today} on {tuning.prompts} prompts"
    best = tuning.best()
    if best is None:
        update = {"about": f"{about}: plain decoding, since no draft gains here"}
        return lineup.plain(base).model_copy(update=update)
    how = "measured" if tuning.measured else "predicted"
    update = {"about": f"{about}: {best.profile.name}, {how} {tuning.speedup(best):.2f} × plain decoding"}
    return best.profile.model_copy(update=update)


def _write(path: Path, profile: Profile) -> None:
    """Raises MachineError."""
    from specctl.profile import write
    from specctl.store.files import write_atomic

    write_atomic(path, write.text(profile).encode())
