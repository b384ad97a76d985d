"""`specctl batch`: a file of prompts, a file of answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specctl.cli import console, options
from specctl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from specctl.batch.prompts import BadLine, Prompt
    from specctl.cli.choice import Choice
    from specctl.profile.schema import Profile
    from specctl.session import Session

EXAMPLES = """Examples:

specctl batch prompts.jsonl -o answers.jsonl

specctl batch prompts.txt --batch-size 4 --raw -n 64 > answers.jsonl

specctl batch questions.jsonl -o answers.jsonl --pair qwen2.5-coder-1.5b --profile draft-model

specctl batch questions.jsonl -o answers.jsonl --schedule exspec --window 32"""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a batch is to be made. `how` goes to `Session.generate`; `unasked`: fetch models of any size."""

    path: Path
    how: dict[str, Any]
    raw: bool
    skip_bad: bool
    offline: bool
    unasked: bool
    quiet: bool

    @property
    def rows(self) -> int:
        """The most answers that are in memory at once."""
        together: int = self.how["batch_size"]
        return max(together, self.how["window"]) if self.how["schedule"] == "exspec" else together


PromptFile = Annotated[
    Path,
    typer.Argument(
        metavar="PROMPTS",
        help="JSONL with `prompt`, `messages` or Spec-Bench's `turns` a line; or plain text, a prompt a line.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="OUT", help="Write the answers here, not to standard output."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--restart", help="Go on behind the answers OUT holds, or replace them."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")]


def batch(
    ctx: typer.Context,
    prompts: PromptFile,
    output: Output = None,
    batch_size: options.BatchSize = 8,
    schedule: options.ScheduleName = "ragged",
    window: options.Window = 32,
    resume: Resume = True,
    skip_bad: SkipBad = False,
    raw: options.Raw = False,
    system: options.System = None,
    profile: options.ProfileName = "default",
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    pull: options.Pull = False,
    offline: options.Offline = False,
    draft_tokens: options.DraftTokens = None,
    accept: options.Accept = None,
    numerics: options.Numerics = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Answer many prompts through one pair, several at once; an answer never depends on its neighbours.

    A line of JSON for each prompt, in the order of the prompts. Stopped and started again it goes on where it was.
    """
    if raw and system is not None:
        raise RequestError("`--raw` and `--system` exclude each other", hint="write it into the prompt")
    from specctl.batch import prompts as files
    from specctl.cli import choice, run

    settings = run.chosen_settings(ctx, profile, verbose=verbose)
    chosen = choice.choose(settings)
    asked, bad = files.read(prompts)
    if not skip_bad:
        files.refuse(prompts, bad)
    how = {"batch_size": batch_size, "schedule": schedule, "window": window}
    wish = Wish(prompts, how, raw, skip_bad, offline, pull, quiet)
    if not _answer_all(settings, chosen, asked, bad, wish, output, restart=not resume):
        raise typer.Exit(ExitCode.INTERRUPTED)


def _answer_all(
    profile: Profile,
    chosen: Choice,
    asked: list[Prompt],
    bad: list[BadLine],
    wish: Wish,
    output: Path | None,
    *,
    restart: bool,
) -> bool:
    """Whether all answers are written; False: interrupted."""
    from specctl.batch.output import AnswerFile
    from specctl.batch.requests import job
    from specctl.cli.memory import out_of_memory

    if output is None:
        with out_of_memory(profile, chosen, rows=wish.rows):
            return _generate(profile, chosen, asked, bad, wish, [], console.json_line)
    names = [model.name for model in chosen.models]
    with AnswerFile(output, job(profile, names, asked, raw=wish.raw), restart=restart) as out:
        if len(out.done) >= len(asked):
            _note(wish, f"{output} holds all {len(out.done)} answers already")
            return True
        if out.done:
            _note(wish, f"{output} holds {len(out.done)} answers; going on behind them")
        with out_of_memory(profile, chosen, rows=wish.rows):
            return _generate(profile, chosen, asked, bad, wish, out.done, out.write)


def _generate(
    profile: Profile,
    chosen: Choice,
    asked: list[Prompt],
    bad: list[BadLine],
    wish: Wish,
    done: list[str],
    write: Callable[[Any], None],
) -> bool:
    """Everything that needs a model. `done` are the ids of answers that are written already."""
    from specctl.batch.answers import answers
    from specctl.batch.prompts import refuse
    from specctl.batch.requests import encode
    from specctl.cli.batch_progress import BatchProgress
    from specctl.cli.interrupt import Interrupt

    session = _open(profile, chosen, asked, wish)
    fitting, requests, unfit = encode(session, asked, raw=wish.raw)
    if not wish.skip_bad:
        refuse(wish.path, unfit)
    ids = [prompt.id for prompt in fitting]
    if done != ids[: len(done)]:
        raise RequestError("the answers written are not those to the first prompts", hint="add --restart")
    if left_out := len(bad) + len(unfit):
        _note(wish, f"note: {left_out} bad lines left out")
    left = requests[len(done) :]
    if not left:
        return True
    with Interrupt() as interrupt, BatchProgress(len(ids), len(done), quiet=wish.quiet) as view:
        events = session.generate(left, **wish.how, cancelled=interrupt.asked)
        for answer in answers(view.watch(events), ids[len(done) :]):
            write(answer)
    _note(wish, view.summary(wish.how["schedule"]))
    return not view.cancelled


def _open(profile: Profile, chosen: Choice, asked: list[Prompt], wish: Wish) -> Session:
    from specctl.cli import log, ready
    from specctl.cli.status import StatusLine

    folders = ready.find_or_fetch(chosen, offline=wish.offline, unasked=wish.unasked, quiet=wish.quiet)
    log.noise_to_file()
    status = StatusLine(under_text=False)
    if console.is_live(sys.stderr) and not wish.quiet:
        status.show("loading " + " and ".join(model.name for model in chosen.models))
    longest = max(
        (one.text or "".join(text for _, text in one.messages) for one in asked), key=len, default=""
    )
    try:
        session = ready.open_session(
            profile, chosen, folders, longest, rows=min(wish.rows, max(len(asked), 1))
        )
        if profile.drafter.weighs_costs and console.is_live(sys.stderr) and not wish.quiet:
            status.show("measuring what a batch costs here, unless it is known")
        session.weigh(wish.how["batch_size"])
    finally:
        status.hide()
    if session.info.numerics_note:
        _note(wish, f"note: {session.info.numerics_note}")
    return session


def _note(wish: Wish, text: str) -> None:
    if not wish.quiet:
        console.note(text)
