"""What `specctl train streams` does once it is clear what is wanted: capture, train, write."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from specctl.cli import console, train_run, train_states
from specctl.cli.interrupt import Interrupt
from specctl.errors import RequestError
from specctl.models import streams
from specctl.models.lm import LM
from specctl.models.streams import Shape
from specctl.models.trained import fingerprint
from specctl.store import fetch
from specctl.training.loop import Ended, Evaluated, Settings, Split, Stepped, Trainer
from specctl.training.shards import Shards
from specctl.training.streams import Streams

if TYPE_CHECKING:
    from specctl.session import Session


_INNER = 512
"""Width of a cell at most: two cells for a model of 576 are 3.5 MB."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`tokens`: positions; `disk` in bytes; `vocabulary` 0: all of it."""

    data: str
    tokens: int
    disk: int
    batch_size: int | None
    count: int
    vocabulary: int
    settings: Settings


def open_base(session: Session, typed: dict[str, Any], **how: bool) -> LM:
    """What the streams are for: the pair's draft where it has one, else the target. Raises RequestError."""
    profile = session.profile
    draft = fetch.resolve(profile.pair).draft if profile.pair else None
    if draft is None:
        return session.target
    models = {key: value for key, value in typed.items() if key in ("dtype", "device")}
    lm = train_run.open_target({**models, "target": draft.name}, **how).target
    if lm.vocab_size < max(session.tokenizer.get_vocab().values(), default=0) + 1:
        raise RequestError(f"`{draft.name}` lacks tokens of its target", hint="train for the target alone")
    return lm


def run(session: Session, base: LM, wish: Wish, output: Path, *, as_json: bool, quiet: bool) -> None:
    """Streams of `base` in `output`, whenever it ends. Raises RequestError; typer.Exit when interrupted."""
    with Interrupt() as interrupt:
        view = train_run.View(quiet=quiet or as_json)
        try:
            data = train_states.captured(session, base, wish, [], output, interrupt.asked, view.captured)
            ended, card = _trained(session, base, wish, data, output, interrupt.asked, view)
        finally:
            view.status.hide()
    if as_json:
        console.document(
            {"schema": 1, "path": str(output), "ended": ended.reason, "step": ended.step, **card}
        )
    else:
        console.line(f"streams of {base.name} in {output}, held out:")
        for one in card["held_out"]:
            console.line(
                f"  stream {one['stream']}: top-1 {one['top1']:.1%}, acceptance {one['acceptance']:.1%}"
            )
    train_states.leave_if(ended.reason == "cancelled")


def _trained(
    session: Session,
    base: LM,
    wish: Wish,
    data: Shards,
    output: Path,
    cancelled: Callable[[], bool],
    view: train_run.View,
) -> tuple[Ended, dict[str, Any]]:
    size = int(base.config.hidden_size)
    shape = Shape(wish.count, size, min(size, _INNER))
    kept = train_states.kept(session, base, data, wish.vocabulary)
    split = Split(data.lengths)
    objective = Streams(base, shape, kept, data)
    about = json.dumps(["streams", fingerprint(base), asdict(shape)])
    trainer = Trainer(objective, split, wish.settings, output, about)
    trainer.resume()
    ended = Ended(trainer.step, "done")
    for event in trainer.run(cancelled):
        if isinstance(event, Stepped):
            view.stepped(event, wish.settings.steps)
        elif isinstance(event, Evaluated):
            view.evaluated(event, "by stream " + ", ".join(f"{one.top1:.1%}" for one in objective.by_stream))
        else:
            ended = event
    with torch.no_grad():
        objective.module.load_state_dict(trainer.best)
        objective.measure(split.held_out)
    card = {
        "held_out": [
            {"stream": number, **asdict(one)} for number, one in enumerate(objective.by_stream, start=1)
        ],
        "trained": {
            "positions": sum(data.lengths),
            "data": wish.data,
            **asdict(wish.settings),
            "steps": trainer.step,
        },
        "command": shlex.join(["specctl", *sys.argv[1:]]),
    }
    streams.write(output, base, trainer.best, shape, kept, card)
    return ended, card
