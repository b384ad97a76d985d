"""`specctl run`: one prompt, one answer, and what was accepted on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from specctl.cli import console, options
from specctl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from specctl.profile.schema import Profile

EXAMPLES = """Examples:

specctl run "Why is the sky blue?"

cat notes.txt | specctl run --profile ngram --show-draft "Summarise this."

specctl run --pair qwen2.5-coder-1.5b --profile draft-model "Write quicksort." --json

specctl run --target ./model.gguf --raw -n 64 -t 0.8 --seed 7 "Once upon a time" """


def run(
    ctx: typer.Context,
    prompt: options.Prompt = None,
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
    show_draft: options.ShowDraft = False,
    as_json: options.Json = False,
    as_jsonl: options.JsonLines = False,
    probabilities: options.Probabilities = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Answer one prompt, with drafts accepted wherever the target agrees.

    A typed option beats the profile. The answer goes to standard output, everything else to standard error.
    """
    if as_json and as_jsonl:
        raise RequestError("`--json` and `--jsonl` exclude each other", hint="give one of them")
    if raw and system is not None:
        raise RequestError("`--raw` and `--system` exclude each other", hint="write it into the prompt")
    from specctl.cli import answer, choice, prompts

    settings = chosen_settings(ctx, profile, verbose=verbose)
    chosen = choice.choose(settings)
    text = prompts.read(prompt)
    wish = answer.Wish(raw, offline, pull, show_draft, as_json, as_jsonl, quiet, verbose)
    if answer.answer(settings, chosen, text, wish) == "cancelled":
        raise typer.Exit(ExitCode.INTERRUPTED)


def chosen_settings(ctx: typer.Context, name: str, *, verbose: bool) -> Profile:
    """The profile with what was typed on top."""
    from specctl.cli import prompts
    from specctl.profile import override, read

    typed = options.typed(ctx)
    for text in (*typed.get("stop", ()), typed.get("system", "")):
        prompts.require_text("an option", text)
    base = read.load(name)
    settings = override.merge(base, typed)
    if verbose:
        for field, value, origin in override.origins(base, settings, typed):
            console.note(f"{field} = {json.dumps(value, ensure_ascii=False)}  [{origin}]")
    return settings
