"""Options more than one command has, and the ones of `run`, which are too many to stand in its signature.

`OVERRIDES` says which field of the profile a typed option replaces.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from specctl.profile import files


def complete_profile(incomplete: str) -> list[str]:
    return sorted({one.name for one in files.list_profiles() if one.name.startswith(incomplete)})


def complete_pair(incomplete: str) -> list[str]:
    from specctl.store import registry

    return [name for name in registry.pairs() if name.startswith(incomplete)]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.", rich_help_panel="Output")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.", rich_help_panel="Output")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use no network (also: HF_HUB_OFFLINE=1).", rich_help_panel="Models")
]
Quantize = Annotated[
    Literal["int8", "int4"] | None,
    typer.Option(
        metavar="int8|int4",
        help="Also store the draft's weights in fewer bits, to be mapped at load instead of made.",
    ),
]

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROMPT]", help="The prompt; text piped in goes before it; `-` reads it from standard input."
    ),
]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="No chat template: continue the text as it is.", rich_help_panel="Prompt"),
]
System = Annotated[str | None, typer.Option(help="System message.", rich_help_panel="Prompt")]

ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME|FILE",
        help="Where all settings come from that are not typed.",
        autocompletion=complete_profile,
        rich_help_panel="Models",
    ),
]
PairName = Annotated[
    str | None,
    typer.Option(
        "--pair",
        metavar="NAME",
        help="A pair by name.",
        autocompletion=complete_pair,
        rich_help_panel="Models",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Instead of a pair: OWNER/REPO, a folder or a .gguf file.",
        rich_help_panel="Models",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="The draft model; chooses method draft-model.", rich_help_panel="Models"
    ),
]
Pull = Annotated[
    bool,
    typer.Option("--pull", "-y", help="Fetch missing models of any size unasked.", rich_help_panel="Models"),
]


def _count_or_auto(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() and text.isascii() else text


DraftTokens = Annotated[
    Any,
    typer.Option(
        metavar="N|auto",
        parser=_count_or_auto,
        help="Most tokens drafted a round, or as many as pay.",
        rich_help_panel="Speculation",
    ),
]
Accept = Annotated[
    str | None,
    typer.Option(
        metavar="rejection|coupled",
        help="How drafts are accepted when sampling.",
        rich_help_panel="Speculation",
    ),
]
Numerics = Annotated[
    str | None,
    typer.Option(
        metavar="invariant|native",
        help="Same bits whatever is drafted, or the model as it comes.",
        rich_help_panel="Speculation",
    ),
]

BatchSize = Annotated[
    int, typer.Option(min=1, max=64, help="Rows decoded together.", rich_help_panel="Batch")
]
ScheduleName = Annotated[
    Literal["ragged", "eqspec", "exspec"],
    typer.Option(help="How rows of a batch go together.", rich_help_panel="Batch"),
]
Window = Annotated[
    int,
    typer.Option(min=1, max=1024, help="Rows that schedule exspec chooses from.", rich_help_panel="Batch"),
]

MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", "-n", help="The answer ends here at the latest.", rich_help_panel="Sampling"
    ),
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", "-t", help="0 is greedy.", rich_help_panel="Sampling")
]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.", rich_help_panel="Sampling")]
TopP = Annotated[
    float | None, typer.Option(help="Keep the smallest set of this mass.", rich_help_panel="Sampling")
]
MinP = Annotated[
    float | None, typer.Option(help="Drop tokens below this share of the best.", rich_help_panel="Sampling")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: repeat less.", rich_help_panel="Sampling")
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.", rich_help_panel="Sampling")]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="End the answer before this text (repeatable).", rich_help_panel="Sampling"
    ),
]

Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="auto|bfloat16|float16|float32|float64", help="Number format.", rich_help_panel="Device"
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="auto|cpu|cuda|mps|…", help="Where to run.", rich_help_panel="Device")
]

ShowDraft = Annotated[
    bool,
    typer.Option(
        "--show-draft",
        help="Paint the answer: accepted green, the target's own bold, rejected struck out.",
        rich_help_panel="Output",
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--jsonl", help="The events, one JSON object a line.", rich_help_panel="Output")
]
Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities",
        help="Events also say how likely each drafted token was.",
        rich_help_panel="Output",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Also the settings in force, their origin, and timings.",
        rich_help_panel="Output",
    ),
]

OVERRIDES = {
    "pair": "pair",
    "target": "target",
    "draft": "draft",
    "system": "system",
    "draft_tokens": "drafter.draft_tokens",
    "accept": "accept",
    "numerics": "numerics",
    "max_new_tokens": "max_new_tokens",
    "temperature": "sampling.temperature",
    "top_k": "sampling.top_k",
    "top_p": "sampling.top_p",
    "min_p": "sampling.min_p",
    "repetition_penalty": "sampling.repetition_penalty",
    "seed": "sampling.seed",
    "stop": "stop",
    "dtype": "dtype",
    "device": "device",
    "probabilities": "probabilities",
}


def typed(ctx: typer.Context) -> dict[str, Any]:
    """What the user typed, by profile field. A default, or a value from the environment, is not typed."""
    return {field: ctx.params[option] for option, field in OVERRIDES.items() if is_typed(ctx, option)}


def is_typed(ctx: typer.Context, option: str) -> bool:
    # The enum's class lives in a private module of typer: only its member's name is public.
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
