"""Can this target and this draft work together, here? Answered before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specctl.errors import MachineError, PairError
from specctl.store import memory, screen, vocabulary
from specctl.store.files import human
from specctl.store.memory import MemoryNeed
from specctl.store.screen import Screened
from specctl.store.vocabulary import Vocabulary

_PROBE = "Add 12 and 345, please: naïve façade\n\n    x = 1"


@dataclass(frozen=True, slots=True)
class PairReport:
    """`problems` forbid the pair (or the request), `warnings` do not. Sentences without a final stop."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    memory: MemoryNeed

    def refuse(self) -> None:
        """Raises PairError for the first problem, MachineError if the memory does not suffice."""
        if self.problems:
            raise PairError(
                self.problems[0],
                hint="choose a draft of the same family, or a method that needs no draft model, such as `ngram`",
            )
        need = self.memory
        if not need.fits and need.available is not None:
            raise MachineError(
                f"not enough memory: {human(need.total)} needed ({human(need.weights)} weights, "
                f"{human(need.caches)} caches), {human(need.available)} free",
                hint="take a smaller model, fewer tokens, a smaller batch, or --dtype bfloat16",
            )


def check(
    target: Path, draft: Path | None, *, max_tokens: int, batch_size: int = 1, dtype_bytes: int = 2
) -> PairReport:
    """`max_tokens` is prompt plus answer, per row; `dtype_bytes` the width the models are loaded in.

    Raises ModelFileError for a folder that must not be loaded at all.
    """
    folders = [target] if draft is None else [target, draft]
    screened = [screen.folder(folder) for folder in folders]
    words = [vocabulary.read(folder) for folder in folders]
    problems: list[str] = []
    warnings: list[str] = []
    _check_context(screened, max_tokens, problems, warnings)
    if words[0].template is None:
        warnings.append("the target has no chat template, so prompts are sent as they are (`--raw`)")
    if draft is not None:
        _check_ids(screened, words[0], words[1], problems, warnings)
        if not problems:
            _check_specials(words[0], words[1], warnings)
            _check_conversation(target, draft, words[0], words[1], warnings)
    need = _memory(screened, max_tokens=max_tokens, batch_size=batch_size, dtype_bytes=dtype_bytes)
    return PairReport(tuple(problems), tuple(warnings), need)


def _check_context(
    screened: list[Screened], max_tokens: int, problems: list[str], warnings: list[str]
) -> None:
    lengths = [model.config.get("max_position_embeddings") for model in screened]
    if isinstance(lengths[0], int) and max_tokens > lengths[0]:
        problems.append(f"{max_tokens} tokens are more than the target's context of {lengths[0]}")
    if len(lengths) == 2 and isinstance(lengths[1], int) and max_tokens > lengths[1]:
        warnings.append(
            f"the draft's context is {lengths[1]} tokens: from there on decoding is plain, without drafts"
        )


def _check_ids(
    screened: list[Screened], target: Vocabulary, draft: Vocabulary, problems: list[str], warnings: list[str]
) -> None:
    """Contents decide, not sizes: padding beyond the real tokens is harmless, one swapped id is not."""
    shared = target.tokens.keys() & draft.tokens.keys()
    differing = [index for index in sorted(shared) if target.tokens[index] != draft.tokens[index]]
    if differing:
        first = differing[0]
        problems.append(
            f"target and draft have different vocabularies: {len(differing)} of {len(shared)} shared ids differ, "
            f"id {first} is {target.tokens[first]!r} and {draft.tokens[first]!r}"
        )
        return
    rows = screened[1].config["vocab_size"]
    unreadable = sum(index >= rows for index in target.tokens)
    if unreadable:
        problems.append(f"the draft cannot read {unreadable} of the target's tokens: it knows {rows} ids")
    only = len(target.tokens) - len(shared), len(draft.tokens) - len(shared)
    if any(only):
        warnings.append(
            f"{only[0]} tokens are only the target's, {only[1]} only the draft's: they are never drafted well"
        )


def _check_specials(target: Vocabulary, draft: Vocabulary, warnings: list[str]) -> None:
    odd = sorted((target.special ^ draft.special) & target.tokens.keys() & draft.tokens.keys())
    if odd:
        warnings.append(f"{len(odd)} tokens are special in one model only, {target.tokens[odd[0]]!r} for one")
    if target.ends and draft.ends and not target.ends & draft.ends:
        ends = [", ".join(sorted(map(words.text, words.ends))) for words in (target, draft)]
        warnings.append(
            f"the target ends with {ends[0]}, the draft with {ends[1]}: the ends of answers will be drafted badly"
        )


def _check_conversation(
    target_folder: Path, draft_folder: Path, target: Vocabulary, draft: Vocabulary, warnings: list[str]
) -> None:
    """The draft gets the target's ids, so what differs here costs acceptance, never correctness."""
    text = vocabulary.render(target, _PROBE) if target.template else _PROBE
    if target.template and not draft.template:
        warnings.append("the draft has no chat template: it may not know the target's format")
    elif target.template != draft.template and text != vocabulary.render(draft, _PROBE):
        warnings.append(
            "target and draft write a conversation differently: the draft may not know the format"
        )
    if target.digest != draft.digest and text is not None:
        ids = [vocabulary.cut(folder, text) for folder in (target_folder, draft_folder)]
        if ids[0] != ids[1]:
            warnings.append("target and draft cut the same text into different tokens")


def _memory(screened: list[Screened], *, max_tokens: int, batch_size: int, dtype_bytes: int) -> MemoryNeed:
    weights = sum(memory.weight_bytes(model.tensors, dtype_bytes) for model in screened)
    caches = sum(
        memory.cache_bytes(
            model.config, max_tokens=max_tokens, batch_size=batch_size, dtype_bytes=dtype_bytes
        )
        for model in screened
    )
    working = sum(memory.working_bytes(model.config, batch_size=batch_size) for model in screened)
    return MemoryNeed(weights, caches, working, memory.available())
