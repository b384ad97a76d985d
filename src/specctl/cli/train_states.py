"""What `specctl train kangaroo` and `train streams` begin with: states of a model on conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from specctl.cli import console, train_data
from specctl.errors import ExitCode, RequestError
from specctl.models.lm import LM
from specctl.training import capture, shards
from specctl.training.kangaroo import frequent_tokens
from specctl.training.loop import Settings, Split

if TYPE_CHECKING:
    from torch import Tensor

    from specctl.session import Session


class Wished(Protocol):
    """`tokens`: positions; `disk` in bytes."""

    @property
    def data(self) -> str: ...

    @property
    def tokens(self) -> int: ...

    @property
    def disk(self) -> int: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def settings(self) -> Settings: ...


def captured(
    session: Session,
    lm: LM,
    wish: Wished,
    depths: Sequence[int],
    folder: Path,
    cancelled: Callable[[], bool],
    show: Callable[[capture.Captured, int], None],
) -> shards.Shards:
    """States of `lm` on conversations of the session's target. Raises RequestError; typer.Exit if interrupted."""
    seed = wish.settings.seed
    source = train_data.find(
        session, wish.data, folder, seed=seed, batch_size=wish.batch_size, cancelled=cancelled
    )
    states = folder / "states"
    about = capture.facts(lm, depths, {"data": source.label, "seed": seed})
    steps = capture.capture(
        lm,
        source.get,
        states,
        about,
        tokens=wish.tokens,
        count=source.count,
        budget=wish.disk,
        cancelled=cancelled,
    )
    for step in steps:
        show(step, wish.tokens)
    leave_if(cancelled())
    data = shards.Shards(states, about)
    if len(data) < 20:
        raise RequestError(
            f"{len(data)} conversations are too few to train on",
            hint="capture more: `--tokens`, or more prompts",
        )
    return data


def kept(session: Session, lm: LM, data: shards.Shards, most: int) -> Tensor | None:
    """The commonest tokens of the conversations that are trained on; None: all of `lm`'s."""
    if not most or most >= lm.vocab_size:
        return None
    texts = (data.sample(number, []).ids.tolist() for number in Split(data.lengths).train)
    return frequent_tokens(texts, most, sorted(session.eos))


def leave_if(interrupted: bool) -> None:
    """Raises typer.Exit."""
    if interrupted:
        console.note("interrupted; the same command goes on from here", "plain")
        raise typer.Exit(ExitCode.INTERRUPTED)
