"""`specctl bench`: is it worth it here? Plain decoding and methods in turns, prompt by prompt."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from specctl.cli import console, options
from specctl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from specctl.bench.report import Run
    from specctl.bench.runner import Plan
    from specctl.bench.suites import Prompt
    from specctl.bench.trial import Contestant
    from specctl.cli.lineup import Opened

EXAMPLES = """Examples:

specctl bench --quick

specctl bench --profile default,ngram --suite questions.jsonl --per-kind 4 -o results

specctl bench --profile all --pair qwen2.5-coder-1.5b --peers -o results

specctl bench compare results results-new"""

_TOKENS, _QUICK_TOKENS = 128, 64

app = typer.Typer(name="bench", help="Speed of profiles against plain decoding, measured side by side.")

Profiles = Annotated[
    str,
    typer.Option(
        "--profile", "-p", metavar="A,B,…|all", help="What to measure; plain decoding always is.",
        autocompletion=options.complete_profile,
    ),
]  # fmt: skip
Suite = Annotated[
    str,
    typer.Option(
        metavar="builtin|FILE", help="Prompts: the built-in ones, or JSONL as Spec-Bench has them, or text."
    ),
]
PerKind = Annotated[int | None, typer.Option(min=1, help="At most so many prompts of each kind.")]
BatchSizes = Annotated[str, typer.Option("--batch-size", metavar="N,…", help="Rows decoded together.")]
Repeats = Annotated[int, typer.Option(min=1, max=100, help="How often everything is run.")]
Quick = Annotated[bool, typer.Option("--quick", help="One prompt of each kind, 64 tokens.")]
Peers = Annotated[
    bool, typer.Option("--peers", help="Also transformers' own speculation, and `economize` if installed.")
]
Predict = Annotated[
    bool,
    typer.Option("--predict", help="Also foretell each speedup, from cost curves and one pass of tracing."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Write JSON, CSV and an HTML report there."),
]
FailUnder = Annotated[
    float | None, typer.Option(metavar="X", help="Exit with 1 if a speedup is below X, for CI.")
]


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def bench(
    ctx: typer.Context,
    profile: Profiles = "default",
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    suite: Suite = "builtin",
    per_kind: PerKind = None,
    batch_size: BatchSizes = "1",
    repeats: Repeats = 1,
    quick: Quick = False,
    peers: Peers = False,
    predict: Predict = False,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    numerics: options.Numerics = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    fail_under: FailUnder = None,
    output: OutputDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure profiles against plain decoding, in turns, prompt by prompt, in one process.

    A speedup is the ratio of whole answers' tokens/s, prefill included, on the same prompt in the same turn; its
    mean is geometric, over kinds of prompts. Exit code 1 only with --fail-under. See docs/benchmarks.md.
    """
    if ctx.invoked_subcommand is not None:
        return
    from specctl.cli import lineup

    sizes = _batch_sizes(batch_size)
    prompts = _prompts(suite, 1 if quick and per_kind is None else per_kind)
    typed = options.typed(ctx)
    typed.setdefault("max_new_tokens", _QUICK_TOKENS if quick else _TOKENS)
    chosen = lineup.line_up(profile.split(","), typed)
    longest = max((prompt.text for prompt in prompts), key=len)
    silent = quiet or as_json
    opened = lineup.open_all(
        chosen.profiles, longest, max(sizes), offline=offline, unasked=pull, quiet=silent
    )
    run = _new_run(opened, chosen.skipped, prompts, suite, repeats)
    plan = _plan(opened[0], prompts, sizes, repeats)
    from specctl.bench import output as files
    from specctl.bench.profiles import ProfileContestant

    contestants: list[Contestant] = [ProfileContestant(one.session) for one in opened]
    contestants += _peers(opened, sizes) if peers else []
    _measure(run, contestants, plan, output, quiet=silent)
    if predict and run.complete:
        _predict(run, opened, plan)
    if output is not None:
        files.write(output, run)
        files.write_page(output, run)
    _show(run, as_json=as_json, quiet=quiet, output=output)
    if not run.complete:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if fail_under is not None and any(
        one.speedup.mean < fail_under for one in run.summaries() if one.contestant != run.baseline
    ):
        raise typer.Exit(ExitCode.NO)


def _peers(opened: list[Opened], sizes: list[int]) -> list[Contestant]:
    """Raises RequestError for what they cannot do."""
    from specctl.bench import peers

    session = opened[0].session
    if sizes != [1] or session.profile.sampling.temperature > 0 or session.info.device != "cpu":
        raise RequestError(
            "`--peers` compares greedy decoding on the CPU, one prompt at a time",
            hint="leave out --batch-size, --temperature and --device",
        )
    draft = next((one.folders[1] for one in opened if one.folders[1] is not None), None)
    return peers.peers(opened[0].folders[0], draft, session.eos)


def _batch_sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",") if part.isascii() and part.isdigit()]
    if len(sizes) != len(text.split(",")) or not all(1 <= size <= 64 for size in sizes):
        raise RequestError(f"`--batch-size {text}` is no list of 1 to 64", hint="for example `1,4`")
    return sizes


def _prompts(suite: str, per_kind: int | None) -> list[Prompt]:
    from specctl.bench import suites

    prompts = suites.builtin() if suite == "builtin" else suites.read(Path(suite))
    return prompts if per_kind is None else suites.of_each_kind(prompts, per_kind)


def _plan(baseline: Opened, prompts: list[Prompt], sizes: list[int], repeats: int) -> Plan:
    from specctl.bench import suites
    from specctl.bench.runner import Plan
    from specctl.session import Request

    session, profile = baseline.session, baseline.session.profile
    requests = {
        prompt.id: Request(
            session.encode(prompt.text, system=None if prompt.raw else profile.system, raw=prompt.raw),
            min(profile.max_new_tokens, prompt.max_new_tokens or profile.max_new_tokens),
            profile.sampling.seed,
            (*profile.stop, *prompt.stop),
        )
        for prompt in prompts
    }
    return Plan(
        [group for size in sizes for group in suites.groups(prompts, size)],
        lambda group: [requests[prompt.id] for prompt in group.prompts],
        repeats,
    )


def _new_run(
    opened: list[Opened], skipped: dict[str, str], prompts: list[Prompt], suite: str, repeats: int
) -> Run:
    from datetime import UTC, datetime

    from specctl.bench import machine, suites
    from specctl.bench.profiles import weights
    from specctl.bench.report import Run, Setup
    from specctl.profile.schema import effective

    base = opened[0].session
    models = {
        model.name: folder
        for one in opened
        for model, folder in zip(one.choice.models, one.folders, strict=False)
        if folder is not None
    }
    setup = Setup(
        argv=["specctl", *sys.argv[1:]],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.machine(),
        versions=machine.versions(),
        models={name: machine.model_digest(folder) for name, folder in models.items()},
        dtype=base.info.dtype,
        device=base.info.device,
        numerics=base.info.numerics,
        suite={"name": Path(suite).name, "prompts": len(prompts), "sha256": suites.digest(prompts)},
        profiles={one.session.profile.name: effective(one.session.profile) for one in opened},
        repeats=repeats,
        max_new_tokens=base.profile.max_new_tokens,
        seed=base.profile.sampling.seed,
        skipped=skipped,
    )
    held = {one.session.profile.name: weights(one.session) for one in opened}
    return Run(setup, base.profile.name, held)


def _measure(
    run: Run, contestants: list[Contestant], plan: Plan, output: Path | None, *, quiet: bool
) -> None:
    """Fills in the trials. With `output` the report is on disk after every group, so nothing is ever lost."""
    from specctl.bench import output as files
    from specctl.bench import runner
    from specctl.cli.interrupt import Interrupt
    from specctl.cli.status import StatusLine

    total = len(plan.groups) * plan.repeats
    status = StatusLine(under_text=False)
    live = console.is_live(sys.stderr) and not quiet
    if live:
        status.show("warming up")
    try:
        with Interrupt() as interrupt:
            for number, trials in enumerate(runner.run(contestants, plan, cancelled=interrupt.asked), 1):
                run.trials += trials
                run.complete = number == total
                if output is not None:
                    files.write(output, run)
                if live:
                    status.show(f"{number} of {total} · {_so_far(run)}")
    finally:
        status.hide()


def _predict(run: Run, opened: list[Opened], plan: Plan) -> None:
    """Raises RequestError for sampled decoding, whose drafts do not follow from the text."""
    from specctl.bench import predict, trace
    from specctl.bench.statistics import geometric_mean
    from specctl.models import costs

    plain, *others = [one.session for one in opened]
    if plain.info.accept != "greedy":
        raise RequestError("only greedy decoding can be foretold", hint="leave out --predict")
    alone = [group for group in plan.groups if group.batch_size == 1]
    answers = [trace.plain(plain, plan.requests(group)[0]) for group in alone]
    for session in others:
        if session.profile.drafter.method not in predict.METHODS or not alone:
            continue
        known = costs.of(session.target, session.draft, thorough=True)
        known = replace(known, overhead=median(rest for _, rest in answers))
        kinds: dict[str, list[float]] = {}
        for group, (answer, _) in zip(alone, answers, strict=True):
            traced = trace.follow(session, plan.requests(group)[0], answer)
            ratio = predict.speedup(session, session.profile.drafter, traced, known)
            kinds.setdefault(group.category, []).append(ratio)
        run.predicted[session.profile.name] = {kind: geometric_mean(some) for kind, some in kinds.items()}
        run.curves[session.target.name] = dict(known.target.points[1])
        if session.draft is not None and known.draft is not None:
            run.curves[session.draft.name] = dict(known.draft.points[1])


def _so_far(run: Run) -> str:
    found = [one for one in run.summaries() if one.contestant != run.baseline]
    return " · ".join(f"{one.contestant} {one.speedup.mean:.2f} ×" for one in found)


def _show(run: Run, *, as_json: bool, quiet: bool, output: Path | None) -> None:
    from specctl.bench import table
    from specctl.bench.statistics import geometric_mean

    if as_json:
        console.document(run.to_json())
        return
    found = run.summaries()
    if found:
        console.table(table.HEAD, [table.row(one) for one in found])
        console.line("")
        head, rows = table.category_table(found, run.baseline)
        console.table(head, rows)
        for one in found:
            if one.contestant in run.predicted and one.batch_size == 1:
                foretold = geometric_mean(list(run.predicted[one.contestant].values()))
                console.line(
                    f"{one.contestant}: predicted {foretold:.2f}, measured {one.speedup.mean:.2f} "
                    f"({foretold / one.speedup.mean - 1:+.0%})"
                )
        for sentence in table.words(found, run.baseline):
            console.line(sentence)
    if quiet:
        return
    for name, why in run.setup.skipped.items():
        console.note(f"{name}: not measured: {why}")
    if not run.complete:
        console.note("interrupted: whole groups only are in the figures")
    if output is not None:
        console.note(f"the report is in {output}")


RunPath = Annotated[Path, typer.Argument(help="A folder written with `bench -o`, or its bench.json.")]


@app.command("compare")
def compare(a: RunPath, b: RunPath, as_json: options.Json = False) -> None:
    """Did B's methods become faster or slower than A's? Paired by prompt; exit code 1 if any became slower."""
    from dataclasses import asdict

    from specctl.bench import compare as comparing
    from specctl.bench import report, table

    changes = comparing.compare(report.read(a), report.read(b))
    if as_json:
        console.document(
            {
                "schema": 1,
                "changes": [
                    {**asdict(one), "ratio": one.ratio._asdict(), "verdict": one.verdict} for one in changes
                ],
            }
        )
    else:
        rows = [
            [one.contestant, str(one.batch_size), table.interval(one.ratio), str(one.prompts), one.verdict]
            for one in changes
        ]
        console.table(("method", "batch", "B : A (95 %)", "prompts", "verdict"), rows)
    if any(one.verdict == "slower" for one in changes):
        raise typer.Exit(ExitCode.NO)
