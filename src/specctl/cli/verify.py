"""`specctl verify-equivalence`: is the output the target's own?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specctl.cli import console, options
from specctl.errors import MissingError, RequestError

if TYPE_CHECKING:
    from specctl.equivalence.report import Report, SequenceReport
    from specctl.equivalence.suite import Prompt
    from specctl.equivalence.verify import Options
    from specctl.profile.schema import Profile

EXAMPLES = """Examples:

specctl verify-equivalence --quick

specctl verify-equivalence --all-profiles --pair smollm2-135m

specctl verify-equivalence --profile draft-model --numerics native --json

specctl verify-equivalence --prompts questions.jsonl --batch-size 4 -o report.json"""

_QUICK_TOKENS, _TOKENS, _THOROUGH_TOKENS = 20, 48, 128

AllProfiles = Annotated[
    bool, typer.Option("--all-profiles", help="Every profile there is, one after the other.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSONL with `prompt` or Spec-Bench's `turns`, or plain text; else a built-in set.",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer prompts, shorter answers.")]
Thorough = Annotated[bool, typer.Option("--thorough", help="Longer answers, caches rebuilt in every round.")]
Replay = Annotated[
    Path | None,
    typer.Option(metavar="CASE", help="Run a recorded case again, without prompts and draft model."),
]
ReportFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="REPORT", help="Write the JSON report to a file too.")
]


def verify_equivalence(
    ctx: typer.Context,
    profile: options.ProfileName = "default",
    all_profiles: AllProfiles = False,
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    prompts: Prompts = None,
    batch_size: options.BatchSize = 1,
    schedule: options.ScheduleName = "ragged",
    window: options.Window = 32,
    max_new_tokens: options.MaxNewTokens = None,
    quick: Quick = False,
    thorough: Thorough = False,
    draft_tokens: options.DraftTokens = None,
    accept: options.Accept = None,
    numerics: options.Numerics = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    replay: Replay = None,
    as_json: options.Json = False,
    output: ReportFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Check that speculative output is the target's own, token for token and bit for bit.

    Exit code 0: it is; 1: a violation was found; 3: undecided. What is proven: docs/concepts/equivalence.md.
    """
    if quick and thorough:
        raise RequestError("`--quick` and `--thorough` exclude each other", hint="give one of them")
    if all_profiles and options.is_typed(ctx, "profile"):
        raise RequestError("`--all-profiles` and `--profile` exclude each other", hint="give one of them")
    if replay is not None:
        report = _replay(replay, offline=offline, unasked=pull, quiet=quiet or as_json)
        _show([report], {}, as_json=as_json, output=output, quiet=quiet)
    profiles, skipped = _profiles(ctx, profile, all_profiles)
    from specctl.equivalence import suite
    from specctl.equivalence.verify import Options

    chosen = suite.read(prompts) if prompts else suite.builtin(quick=quick)
    default = _QUICK_TOKENS if quick else _THOROUGH_TOKENS if thorough else _TOKENS
    amount = Options(
        max_new_tokens or default,
        batch_size,
        audit=1.0 if thorough else 0.1,
        noise_positions=300 if quick else 2000,
        schedule=schedule,
        window=window,
    )
    reports = []
    for one in profiles:
        try:
            reports.append(
                _verify(one, chosen, amount, offline=offline, unasked=pull, quiet=quiet or as_json)
            )
        except MissingError as error:  # no adapter of this target, no network for its draft
            if not all_profiles:
                raise
            skipped[one.name] = error.message
    if not reports:
        raise MissingError("none of the profiles can be verified", hint="; ".join(skipped.values()))
    _show(reports, skipped, as_json=as_json, output=output, quiet=quiet)


def _profiles(ctx: typer.Context, name: str, every: bool) -> tuple[list[Profile], dict[str, str]]:
    """What was typed goes on top of each. Of all profiles, those it does not suit are left out, with the reason."""
    from specctl.cli import choice
    from specctl.profile import files, override, read

    typed = options.typed(ctx)
    if not every:
        return [override.merge(read.load(name), typed)], {}
    found: list[Profile] = []
    skipped: dict[str, str] = {}
    for one in files.list_profiles():
        if one.shadowed:
            continue
        try:
            profile = override.merge(read.load(one.name), typed)
            choice.choose(profile)
            found.append(profile)
        except RequestError as error:
            skipped[one.name] = error.message
    if not found:
        raise RequestError("none of the profiles can be verified", hint="; ".join(skipped.values()))
    return found, skipped


def _verify(
    profile: Profile, prompts: list[Prompt], amount: Options, *, offline: bool, unasked: bool, quiet: bool
) -> Report:
    from specctl.cli import choice, log, ready
    from specctl.cli.memory import out_of_memory
    from specctl.cli.status import StatusLine

    chosen = choice.choose(profile)
    with out_of_memory(profile, chosen):
        folders = ready.find_or_fetch(chosen, offline=offline, unasked=unasked, quiet=quiet)
        log.noise_to_file()
        status = StatusLine(under_text=False)
        live = console.is_live(sys.stderr) and not quiet
        if live:
            status.show(f"{profile.name}: loading")
        try:
            longest = max((prompt.text for prompt in prompts), key=len)
            session = ready.open_session(profile, chosen, folders, longest)
            from specctl.equivalence.identity import identify
            from specctl.equivalence.verify import verify

            target, draft = folders
            named = (chosen.draft.name, draft) if chosen.draft and draft else None
            told = _progress(status, profile.name, len(prompts)) if live else lambda report: None
            models = identify((chosen.target.name, target), named)
            report = verify(session, prompts, amount, judged=told, models=models)
        finally:
            status.hide()
    for note in (session.info.numerics_note, session.info.draft_note):
        if note and not quiet:
            console.note(f"note: {note}")
    return report


def _replay(path: Path, *, offline: bool, unasked: bool, quiet: bool) -> Report:
    """Raises RequestError for a file that is no case."""
    import json

    from specctl.cli import choice, log, ready
    from specctl.equivalence.case import verify_case
    from specctl.equivalence.tape import Tape
    from specctl.profile import override

    try:
        tape = Tape.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        raise RequestError(
            f"cannot read a case from `{path}`", hint="give a file this command has written"
        ) from None
    profile = override.recorded({**tape.profile, "drafter": {"method": "none"}, "draft": None}, "replay")
    chosen = choice.choose(profile)
    folders = ready.find_or_fetch(chosen, offline=offline, unasked=unasked, quiet=quiet)
    log.noise_to_file()
    return verify_case(ready.open_session(profile, chosen, folders, ""), tape)


def _progress(status: Any, name: str, total: int) -> Callable[[SequenceReport], None]:
    seen: list[SequenceReport] = []

    def told(report: SequenceReport) -> None:
        seen.append(report)
        wrong = sum(one.verdict.violation for one in seen)
        status.show(f"{name}: {len(seen)} of {total} sequences, {wrong} violations")

    return told


def _show(
    reports: list[Report], skipped: dict[str, str], *, as_json: bool, output: Path | None, quiet: bool
) -> None:
    """Report file, first line, table, and what a reader has to know on top; ends with the exit code."""
    from specctl.equivalence import report as shapes

    code = shapes.exit_code(one.verdict for one in reports)
    reports = _keep_cases(reports)
    if output is not None or as_json:
        from specctl.equivalence.document import document, write

        whole = document(reports, skipped)
        if output is not None:
            write(output, whole)
        if as_json:
            console.document(whole)
            raise typer.Exit(code)
    console.line(shapes.first_line(reports))
    if not quiet:
        console.table(shapes.HEAD, [shapes.table_row(one) for one in reports])
        for one in reports:
            _tell(one)
        for name, why in skipped.items():
            console.line(f"{name}: not verified: {why}")
        for one in reports:
            if one.case_file is not None:
                console.line(
                    f"a small case is in {one.case_file}: specctl verify-equivalence --replay {one.case_file}"
                )
    raise typer.Exit(code)


def _keep_cases(reports: list[Report]) -> list[Report]:
    """Failing cases go to the current folder: `case.json`, or `case-PROFILE.json` each if several profiles ran."""
    from dataclasses import replace

    from specctl.equivalence.document import write

    kept = []
    for one in reports:
        if one.case is not None:
            path = Path("case.json" if len(reports) == 1 else f"case-{one.profile}.json")
            write(path, one.case.to_json())
            one = replace(one, case_file=str(path))
        kept.append(one)
    return kept


def _tell(report: Report) -> None:
    """Problems, the first divergence in context, and what this run did not exercise."""
    for problem in report.problems:
        console.line(f"{report.profile}: {problem.verdict.value}: {problem.what}")
    for one in report.sequences:
        for problem in one.problems:
            console.line(f"{report.profile}: {one.id}: {problem.verdict.value}: {problem.what}")
    if report.context is not None:
        where = report.context.divergence
        console.line(
            f"{report.profile}: {report.context.id}: token {where.index}, round {where.round}, slot {where.slot}: "
            f"margin {_number(where.gap_ref)} re-scored, {_number(where.gap_ar)} in the reference, "
            f"{_number(where.gap_spec)} in the run, noise {_number(where.eps)}"
        )
        console.line(f"  both       … {report.context.before!r}")
        console.line(f"  reference    {report.context.reference!r}")
        console.line(f"  run          {report.context.run!r}")
    missing = report.coverage["not_exercised"]
    if missing and report.settings["method"] != "none":
        console.line(f"{report.profile}: not exercised: " + ", ".join(missing))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
