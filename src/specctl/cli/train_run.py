"""What `specctl train kangaroo` does once it is clear what is wanted: capture, probe exits, train, write."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from specctl.cli import console, log, ready, train_states
from specctl.cli.choice import Choice
from specctl.cli.interrupt import Interrupt
from specctl.cli.memory import out_of_memory
from specctl.cli.status import StatusLine
from specctl.errors import RequestError
from specctl.models import adapter as adapters
from specctl.models.adapter import Block, Shape
from specctl.models.trained import fingerprint
from specctl.profile import override, read, yaml_file
from specctl.store import fetch
from specctl.training import capture, predict, shards
from specctl.training.kangaroo import Kangaroo
from specctl.training.loop import Ended, Evaluated, Figures, Settings, Split, Stepped, Trainer

if TYPE_CHECKING:
    from torch import Tensor

    from specctl.session import Session

_PROBED = (1, 2, 3, 4, 6, 8)
_PROBE_STEPS = 60


@dataclass(frozen=True, slots=True)
class Wish:
    """`exit_layer` None: chosen by short probes. `disk` in bytes."""

    data: str
    tokens: int
    disk: int
    batch_size: int | None
    exit_layer: int | None
    block: Block
    vocabulary: int
    settings: Settings


def read_settings(path: Path | None, base: Settings = Settings()) -> Settings:
    """The loop's settings from a YAML file, the others as in `base`. Raises RequestError for unknown fields."""
    if path is None:
        return base
    document = yaml_file.read(path)
    known: dict[str, Any] = get_type_hints(Settings)
    values: dict[str, Any] = {}
    if document.problems or not isinstance(document.value, dict):
        what = document.problems[0].what if document.problems else "holds no settings"
        raise RequestError(f"`{path}` {what}", hint=f"give `field: value` lines of {', '.join(known)}")
    for name, value in document.value.items():
        kind = known.get(name)
        fits = (
            value in ("adamw", "muon")
            if kind is str
            else isinstance(value, (int, float) if kind is float else int) and value >= 0
        )
        if kind is None or not fits:
            raise RequestError(f"`{path}`: `{name}` cannot be {value!r}", hint=f"fields: {', '.join(known)}")
        values[name] = kind(value)
    return replace(base, **values)


def open_target(typed: dict[str, Any], *, offline: bool, unasked: bool, quiet: bool) -> Session:
    """The target to train for, decoding plainly; fetched where it is missing."""
    profile = override.merge(read.load("plain"), typed)
    pair = fetch.resolve(profile.pair or profile.target or "")
    choice = Choice(profile.pair, pair.target, None)
    folders = ready.find_or_fetch(choice, offline=offline, unasked=unasked, quiet=quiet)
    log.noise_to_file()
    with out_of_memory(profile, choice):
        return ready.open_session(profile, choice, folders, "")


def run(session: Session, wish: Wish, output: Path, *, as_json: bool, quiet: bool) -> None:
    """Capture, choose an exit, train, write the adapter. Raises typer.Exit when interrupted."""
    layers = session.target.n_layers
    depths = [wish.exit_layer] if wish.exit_layer else [depth for depth in _PROBED if depth < layers]
    with Interrupt() as interrupt:
        view = View(quiet=quiet or as_json)
        try:
            lm, stop = session.target, interrupt.asked
            data = train_states.captured(session, lm, wish, depths, output, stop, view.captured)
            kept = train_states.kept(session, lm, data, wish.vocabulary)
            job = _Job(session, wish, kept, data, interrupt.asked, view)
            depth = depths[0] if wish.exit_layer else _probed(job, depths, output / "probes")
            made = _trained(job, Shape(depth, wish.block), output)
        finally:
            view.status.hide()
    figures = made.figures
    if as_json:
        console.document(
            {"schema": 1, "path": str(output), "ended": made.ended.reason, "step": made.ended.step}
            | {"depth": depth, "block": wish.block, "predicted_speedup": made.speed}
            | {"held_out": None if figures is None else asdict(figures)}
        )
    else:
        told = (
            ""
            if figures is None
            else f", held-out top-1 {figures.top1:.1%}, acceptance {figures.acceptance:.1%}"
            f", predicted {made.speed:.2f} x plain here"
        )
        console.line(f"adapter behind layer {depth} in {output}{told}")
    train_states.leave_if(made.ended.reason == "cancelled")


@dataclass(frozen=True, slots=True)
class _Job:
    """What trainings of one run have in common."""

    session: Session
    wish: Wish
    kept: Tensor | None
    data: shards.Shards
    cancelled: Callable[[], bool]
    view: View


@dataclass(frozen=True, slots=True)
class _Made:
    """`figures` None: nothing was evaluated yet. `speed`: predicted, over plain decoding on this machine."""

    ended: Ended
    figures: Figures | None
    speed: float


def _probed(job: _Job, depths: list[int], folder: Path) -> int:
    """The exit whose short training promises most."""
    few = replace(job.wish.settings, steps=_PROBE_STEPS, evaluate_every=_PROBE_STEPS)
    short = replace(job, wish=replace(job.wish, settings=few))
    promised: dict[int, float] = {}
    for depth in depths:
        made = _trained(short, Shape(depth, job.wish.block), folder / str(depth))
        train_states.leave_if(made.ended.reason == "cancelled")
        promised[depth] = made.speed
        top1 = made.figures.top1 if made.figures else 0.0
        console.note(
            f"exit {depth}: top-1 {top1:.1%}, predicted {made.speed:.2f} x plain after {made.ended.step} steps",
            "plain",
        )
    return max(promised, key=lambda depth: promised[depth])


def _trained(job: _Job, shape: Shape, output: Path) -> _Made:
    lm, settings = job.session.target, job.wish.settings
    objective = Kangaroo(lm, shape, job.kept, job.data)
    about = json.dumps(["kangaroo", fingerprint(lm), asdict(shape)])
    trainer = Trainer(objective, Split(job.data.lengths), settings, output, about)
    trainer.resume()
    drafting = adapters.Adapter(lm, shape).to(lm.device, lm.dtype)
    costs = predict.measure(lm, adapters.readout(lm, drafting, job.kept))
    ended = Ended(trainer.step, "done")
    for event in trainer.run(job.cancelled):
        if isinstance(event, Stepped):
            job.view.stepped(event, settings.steps)
        elif isinstance(event, Evaluated):
            job.view.evaluated(event, f"predicted {predict.best(costs, event.figures.top1)[1]:.2f} x")
        else:
            ended = event
    figures = trainer.figures
    # Greedy drafting keeps a token as often as the two agree.
    speed = predict.best(costs, figures.top1)[1] if figures else 0.0
    trained = {"positions": sum(job.data.lengths), "data": job.wish.data, **asdict(settings)}
    card = {
        "held_out": asdict(figures) if figures else None,
        "predicted_speedup": speed,
        "costs_s": asdict(costs),
        "trained": {**trained, "steps": trainer.step},
        "curve": [{"step": one.step, **asdict(one.figures)} for one in trainer.curve],
        "command": shlex.join(["specctl", *sys.argv[1:]]),
    }
    adapters.write(output, lm, trainer.best, shape, job.kept, card)
    return _Made(ended, figures, speed)


class View:
    """One status line, redrawn: what is being done, how well, how long it will take."""

    def __init__(self, *, quiet: bool) -> None:
        self.status = StatusLine(under_text=False)
        self._live = console.is_live(sys.stderr) and not quiet
        self._told = not self._live and not quiet  # a log keeps the curve
        self._last = ""
        self._rate = 0.0

    def captured(self, step: capture.Captured, wanted: int) -> None:
        self._show(
            f"capture · {step.conversations} conversations · {step.tokens:,} of {wanted:,} tokens"
            f" · {step.bytes / 1e9:.2f} GB{' · disk budget reached' if step.full else ''}"
        )

    def stepped(self, event: Stepped, steps: int) -> None:
        rate = event.tokens / event.seconds
        self._rate = rate if not self._rate else 0.95 * self._rate + 0.05 * rate
        left = round((steps - event.step) * event.seconds)
        self._show(
            f"step {event.step}/{steps} · loss {event.loss:.3f} · {self._rate:,.0f} tokens/s"
            f" · ETA {left // 60}:{left % 60:02}{self._last}"
        )

    def evaluated(self, event: Evaluated, more: str) -> None:
        one = event.figures
        self._last = f" · top-1 {one.top1:.1%} · acceptance {one.acceptance:.1%} · {more}"
        if self._told:
            console.note(f"step {event.step}{self._last}", "plain")

    def _show(self, text: str) -> None:
        if self._live:
            self.status.show(text)
