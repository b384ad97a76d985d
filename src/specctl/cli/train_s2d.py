"""`specctl train s2d`: a sorted draft of a model's first layers, and its thresholds for a target."""

from __future__ import annotations

from typing import Annotated

import typer

from specctl.cli import options, train
from specctl.errors import RequestError

EXAMPLES = """Examples:

specctl train s2d --base smollm2-135m --depths 2,4,6 -o my-draft

specctl train s2d --base smollm2-135m --depths 2,4 --rank 64 --loss distil -o my-draft

specctl train s2d --fit-thresholds --target smollm2-135m --tokens 20k -o my-draft

Use the result in a profile: drafter: {method: s2d, weights: my-draft}"""

Base = Annotated[
    str, typer.Option(metavar="MODEL", help="The model whose first layers are cut.", rich_help_panel="Models")
]
Depths = Annotated[str, typer.Option(metavar="D1,D2,...", help="Layers after which the draft can answer.")]
Rank = Annotated[
    int | None, typer.Option(min=1, metavar="R", help="Train a low-rank change: a small result.")
]
LossName = Annotated[
    str,
    typer.Option(
        "--loss", metavar="ce|distil", help="Learn the tokens of the answers, or the base's own law."
    ),
]
Fit = Annotated[
    bool,
    typer.Option(
        "--fit-thresholds", help="Train nothing: find when the draft in DIR should climb, for --target."
    ),
]
FitTarget = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="MODEL", help="With --fit-thresholds: for whom.", rich_help_panel="Models"
    ),
]
DraftTokens = Annotated[
    int, typer.Option(min=1, max=64, help="With --fit-thresholds: tokens drafted a round.")
]


def s2d(
    ctx: typer.Context,
    output: train.Output,
    base: Base = "smollm2-135m",
    target: FitTarget = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    depths: Depths = "2,4,6",
    rank: Rank = None,
    loss: LossName = "ce",
    vocabulary: train.Vocabulary = 8192,
    data: train.Data = "self",
    tokens: train.Tokens = "300k",
    batch_size: train.BatchSize = None,
    config: train.Config = None,
    fit_thresholds: Fit = False,
    draft_tokens: DraftTokens = 5,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A sorted draft: a model's first layers, usable at each of several depths, for one target or many.

    The same command goes on where it was interrupted, in writing conversations and in training.
    """
    from specctl.cli import train_run, train_s2d_run

    if loss not in ("ce", "distil"):
        raise RequestError(f"`--loss {loss}` is unknown", hint="use ce or distil")
    if target and not fit_thresholds:
        raise RequestError("`--target` goes with `--fit-thresholds`", hint="the model trained on is `--base`")
    wish = train_s2d_run.Wish(
        data=data,
        tokens=train.count(tokens),
        batch_size=batch_size,
        depths=_depths(depths),
        rank=rank,
        loss=loss,  # type: ignore[arg-type]  # one of the two, see above
        vocabulary=vocabulary,
        settings=train_run.read_settings(config),
    )
    typed = {key: value for key, value in options.typed(ctx).items() if key in ("dtype", "device")}
    how = {"offline": offline, "unasked": pull, "quiet": quiet or as_json}
    said = {"as_json": as_json, "quiet": quiet}
    if fit_thresholds:
        session = train_run.open_target({**typed, "target": target or base}, **how)
        cut = session.target
        if options.is_typed(ctx, "base") and base != target:
            cut = train_run.open_target({**typed, "target": base}, **how).target
        train_s2d_run.fit(session, cut, wish, draft_tokens, output, **said)
    else:
        train_s2d_run.train(train_run.open_target({**typed, "target": base}, **how), wish, output, **said)


def _depths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise RequestError(f"`--depths {text}` is no list of layers", hint="such as 2,4,6")
    return tuple(map(int, parts))
