"""What `specctl trim` does once it is clear what is wanted: calibrate, choose, cut, tell."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from specctl.cli import console, trim_show
from specctl.cli.interrupt import Interrupt
from specctl.cli.status import StatusLine
from specctl.cli.trim import interrupted
from specctl.cli.trim_models import Models
from specctl.errors import RequestError
from specctl.models.load import load_tokenizer
from specctl.models.quantize import Maker
from specctl.store import vocabulary
from specctl.store.files import write_atomic
from specctl.trim import calibration, counts, curve, expected, gather, job, rates, source, write
from specctl.trim import check as checking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from specctl.trim.calibration import Calibration, Sample
    from specctl.trim.curve import Point
    from specctl.trim.gather import Entry
    from specctl.trim.job import Plan


@dataclass(frozen=True, slots=True)
class Wish:
    """How to calibrate, and which size is wanted: `size` rows, a share to cover, or neither for the best."""

    calibrate: str
    answers: str
    count: int
    max_new_tokens: int
    batch_size: int
    seed: int
    size: int | None
    coverage: float | None
    draft_tokens: int
    measure: int


def run(
    models: Models,
    wish: Wish,
    output: Path,
    *,
    force: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    _require_possible(models, wish, report)
    write.require_free(output, force=force)
    kept = _calibrated(models, wish, output, force=force, quiet=quiet or as_json)
    mass = _expected(models, wish, output, kept, quiet=quiet or as_json)
    made = job.plan(models.target, models.draft, kept.ordered(), mass)
    chosen = _asked_size(made, wish)
    points = _curve(models, made, wish, chosen, drawn=report is not None)
    point = next(one for one in points if one.size == chosen) if chosen else curve.best(points)
    path = job.finish(output, made, point, kept.settings)
    if report is not None:
        from specctl.trim.plot import svg

        title = f"{models.choice.models[-1].name} drafting for {models.choice.target.name}"
        write_atomic(report, svg(points, title, point.size).encode())
    if as_json:
        facts = {"schema": 1, "path": str(path), "size": point.size, "rows": made.draft.rows}
        console.document(
            {**facts, "origin": kept.settings.origin, "curve": [one.to_json() for one in points]}
        )
        return
    if not quiet:
        trim_show.table(points, point.size)
    console.line(f"{point.size:,} of {made.draft.rows:,} rows, covering {point.covered:.2%}, in {output}")
    if not quiet:
        console.note(f"in a profile: draft: {{trim: {output}}}", "plain")


def check(
    models: Models, folder: Path, prompts: Path, new_tokens: int, batch_size: int, *, as_json: bool
) -> None:
    """Coverage of the target's answers to new prompts, beside what the calibration promised."""
    ids, promised = job.described(folder, models.draft)
    found = gather.entries(prompts)
    known = calibration.read(folder)
    texts = [entry.known_by for entry in found]
    calibration.refuse_shared([one.text for one in known[1]] if known else [], texts, str(prompts))
    tokenizer = load_tokenizer(models.target)
    samples = list(gather.given(tokenizer, found, tokenizer.eos_token_id))
    asked = [index for index, entry in enumerate(found) if entry.answer is None]
    if asked:
        session = models.writer("target", 1)
        samples += gather.from_prompts(
            session, found, asked, max_new_tokens=new_tokens, batch_size=batch_size
        )
    words, rows = vocabulary.read(models.target), source.find(models.target).rows
    result = checking.check(samples, ids, promised["all"], words, rows)
    trim_show.check_table(result, promised, as_json=as_json)


def _require_possible(models: Models, wish: Wish, report: Path | None) -> None:
    """What can be known before hours of answers. Raises RequestError."""
    if wish.size is not None:
        job.require_possible(models.target, models.draft, wish.size)
    if wish.coverage is not None:
        counts.require_share(wish.coverage)
    if wish.answers == "text" and wish.calibrate == "self":
        raise RequestError("`--answers text` needs a file", hint="give one: `--calibrate FILE`")
    if report is not None and not report.absolute().parent.is_dir():
        raise RequestError(f"there is no folder for `{report}`", hint="make it first")


def _calibrated(models: Models, wish: Wish, output: Path, *, force: bool, quiet: bool) -> Calibration:
    """All the answers wanted, from the folder or made now. Raises typer.Exit when interrupted."""
    path = None if wish.calibrate == "self" else Path(wish.calibrate)
    found = gather.entries(path) if path else []
    indices = range(len(found) if path else wish.count)
    kept = calibration.Calibration(output, _settings(models, wish, path, found), force=force)
    missing = kept.missing(indices)
    if not missing:
        return kept
    if wish.answers != "target":
        console.note(
            f"note: by {kept.settings.origin} a worse part of the vocabulary is kept than by the target's answers"
        )
    with Interrupt() as interrupt:
        progress = _Progress(len(indices), len(kept.samples), quiet=quiet)
        samples = _samples(models, wish, found, missing, interrupt.asked)
        try:
            kept.extend(samples, progress.told)
        finally:
            progress.status.hide()
        if interrupt.asked():
            raise interrupted(len(kept.samples), len(indices))
    return kept


def _samples(
    models: Models, wish: Wish, found: Sequence[Entry], missing: list[int], cancelled: Callable[[], bool]
) -> Iterator[Sample]:
    if wish.answers == "text":
        found = [gather.as_text(entry) for entry in found]
    if found:
        tokenizer = load_tokenizer(models.target)
        for sample in gather.given(tokenizer, found, tokenizer.eos_token_id):
            if sample.index in missing:
                yield sample
        missing = [index for index in missing if found[index].answer is None]
    if not missing:
        return
    session = models.writer(wish.answers, wish.draft_tokens)
    how: dict[str, Any] = {
        "max_new_tokens": wish.max_new_tokens,
        "batch_size": wish.batch_size,
        "cancelled": cancelled,
    }
    if found:
        yield from gather.from_prompts(session, found, missing, **how)
    else:
        yield from gather.from_itself(session, missing, seed=wish.seed, **how)


def _settings(models: Models, wish: Wish, path: Path | None, found: Sequence[Entry]) -> calibration.Settings:
    whose = {"target": "answers of the target", "draft": "answers of the draft", "text": "raw text"}
    given = "" if any(entry.answer is None for entry in found) or not found else " (from a file)"
    return calibration.Settings(
        target=models.choice.target.name,
        tokenizer=vocabulary.fingerprint(models.target),
        origin=whose[wish.answers] + given,
        prompts=hashlib.sha256(path.read_bytes()).hexdigest() if path else "self",
        max_new_tokens=wish.max_new_tokens,
        seed=wish.seed,
    )


def _expected(models: Models, wish: Wish, output: Path, kept: Calibration, *, quiet: bool) -> Tensor:
    """What the draft holds likely in the answers: kept beside them, so that another size needs no model."""
    samples = kept.ordered()
    key = expected.key(samples, f"{models.choice.models[-1].name} {models.quantize}")
    found = expected.read(output, key)
    if found is not None:
        return found
    draft = models.session(wish.draft_tokens).draft
    assert draft is not None
    status, live, done = StatusLine(under_text=False), console.is_live(sys.stderr) and not quiet, 0

    def told(read: int) -> None:
        nonlocal done
        done += read
        if live and status.due():
            status.show(f"the draft reads the answers · {done:,} tokens")

    try:
        found = expected.masses(draft, samples, told)
    finally:
        status.hide()
    expected.write(output, key, found)
    return found


def _asked_size(made: Plan, wish: Wish) -> int | None:
    if wish.size is not None:
        return wish.size
    return None if wish.coverage is None else made.size_for(wish.coverage)


def _curve(models: Models, made: Plan, wish: Wish, chosen: int | None, *, drawn: bool) -> list[Point]:
    """Every size with what is known of it. Models are loaded only if speed is asked for."""
    points = made.covered(curve.sizes_for(made.rows, len(made.must), chosen))
    if chosen is not None and not drawn and not wish.measure:
        return points
    session = models.session(wish.draft_tokens)
    assert session.draft is not None
    sizes = [point.size for point in points]
    drafts = curve.variants(session.draft, made.draft, made.judging, sizes, Maker(session.profile.quantize))
    points = curve.with_speed(
        points,
        made.judging,
        made.held_out,
        (session.target, session.draft, drafts),
        (made.target, made.draft),
        wish.draft_tokens,
    )
    if wish.measure:
        prompts = [one.prompt for one in made.held_out if one.prompt][: wish.measure]
        points = rates.measured(session, drafts, points, prompts, wish.max_new_tokens)
    return points


class _Progress:
    """Answers done, speed, and the time left: a live line on a terminal, a line a minute elsewhere."""

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self.status = StatusLine(under_text=False)
        self._total, self._done, self._first = total, done, done
        self._tokens = 0
        self._begun = self._said = monotonic()
        self._quiet = quiet
        self._live = console.is_live(sys.stderr)

    def told(self, sample: Sample) -> None:
        self._done += 1
        self._tokens += len(sample.answer)
        now = monotonic()
        if self._quiet or not (self._live or now - self._said > 60):
            return
        self._said = now
        left = (now - self._begun) / (self._done - self._first) * (self._total - self._done)
        text = (
            f"{self._done} of {self._total} answers · {self._tokens / (now - self._begun):.1f} tokens/s · "
            f"about {left / 60:.0f} min left"
        )
        if self._live:
            self.status.show(text)
        else:
            console.note(text, "plain")
