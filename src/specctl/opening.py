"""Opening what a profile drafts with: a model of its own, a copy of the target, an adapter, or a sorted draft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from specctl.mirror.worker import Recipe, Worker
from specctl.models import adapter as adapters
from specctl.models import cheap, sorted_draft, streams, trimmed
from specctl.models.lm import LM
from specctl.models.load import load
from specctl.profile.drafters import AutoParams, KangarooParams, MirrorParams, S2DParams
from specctl.profile.schema import Profile

_LARGE = 4
"""Beside a target less than so many times its size a draft model costs `auto` more than the target's own weights in
4 bits: it reads the prompt once more and is right less often (docs/benchmarks.md)."""


def open_draft(
    profile: Profile, target: LM, target_dir: Path, folder: Path | None, name: str | None
) -> tuple[LM | None, str | None]:
    """The draft, trimmed and made cheap, and a sentence if that failed for some of it."""
    if isinstance(profile.drafter, KangarooParams):
        return _open_adapter(profile.drafter, target)
    device = profile.device
    if isinstance(profile.drafter, MirrorParams):
        device = profile.drafter.draft_device or device
    if folder is not None and _takes(profile, target_dir, folder):
        lm = load(folder, name=name or "draft", dtype=profile.dtype, device=device, native=True)
    elif profile.drafter.drafts_itself:
        lm, folder = replace(target, twin=device == profile.device), target_dir
        if device != profile.device:
            lm = load(folder, name=target.name, dtype=profile.dtype, device=device, native=True)
    else:
        return None, None
    if isinstance(profile.drafter, S2DParams):
        return _open_sorted(profile, lm, target)
    whole, trim = lm, None
    if profile.draft is not None and profile.draft.trim is not None:
        trim = Path(profile.draft.trim)
        lm = trimmed.trimmed(lm, trimmed.read(trim, lm, folder, target.vocab_size))
    found, of_no_use = cheap.find(lm, profile.quantize, whole, trim)
    draft, note = cheap.cheapened(lm, profile.quantize, found)
    if profile.draft is not None and profile.draft.streams is not None:
        draft.streams = streams.find(profile.draft.streams, whole)
    return draft, note or of_no_use


def _takes(profile: Profile, target_dir: Path, folder: Path) -> bool:
    """Whether the draft model in `folder` drafts, and not the target's own weights."""
    params = profile.drafter
    if not isinstance(params, AutoParams) or params.model == "draft":
        return params.takes_draft
    if params.model == "self":
        return False
    wished = profile.draft is not None and bool(profile.draft.model or profile.draft.trim)
    return wished or _LARGE * _bytes(folder) <= _bytes(target_dir)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def open_worker(profile: Profile, target: LM, folder: Path, name: str | None) -> Worker | None:
    """A process that loads the draft while this one goes on."""
    params = profile.drafter
    if not isinstance(params, MirrorParams) or params.overlap != "worker":
        return None
    trim = profile.draft.trim if profile.draft else None
    found = profile.draft.streams if profile.draft else None
    device = params.draft_device or profile.device
    recipe = Recipe(
        str(folder),
        name or target.name,
        profile.dtype,
        device,
        profile.quantize,
        trim,
        found,
        target.vocab_size,
        params.draft_threads,
    )
    return Worker(recipe)


def _open_adapter(params: KangarooParams, target: LM) -> tuple[LM, str | None]:
    folder = (
        Path(params.adapter) if params.adapter else adapters.shipped(target, copied=params.copy_ is not None)
    )
    lm = adapters.readout(target, *adapters.read(folder, target))
    if params.copy_ is None:
        return cheap.packed(lm), None
    return cheap.cheapened(replace(lm, twin=True), params.copy_)


def _open_sorted(profile: Profile, base: LM, target: LM) -> tuple[LM, str | None]:
    """The sorted draft cut from `base`, merged and made cheap, with the thresholds for this target."""
    assert isinstance(profile.drafter, S2DParams)
    folder = Path(profile.drafter.weights) if profile.drafter.weights else sorted_draft.shipped(base)
    draft, kept = sorted_draft.read(folder, base)
    lm, note = cheap.cheapened(draft.merged(base, kept), profile.quantize)
    climb = sorted_draft.thresholds(folder, draft.shape, target)
    lm.exits = tuple(zip(draft.shape.depths, climb, strict=True))
    return lm, note
