"""Other programs' decoding as contestants, in the same process on the same files: transformers, and `economize`.

They get the settings their documents show for lookup and draft models. In 16 bits their text may leave plain
decoding's after some dozen tokens (`docs/architecture.md`, Numerics), which the report counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from specctl.bench.trial import Contestant, Outcome
from specctl.decode.draft import Request
from specctl.models.load import load

DRAFT_TOKENS = 5
LOOKUP_TOKENS = 10


class Peer:
    """A `generate` of transformers' kind; one row at a time."""

    def __init__(self, name: str, generate: Callable[..., Any], eos: frozenset[int], **how: Any) -> None:
        self.name = name
        self._generate, self._eos, self._how = generate, sorted(eos), how

    def run(self, requests: Sequence[Request], batch_size: int, cancelled: Callable[[], bool]) -> Outcome:
        answers = []
        begun = perf_counter()
        for request in requests:
            ids = torch.tensor([request.prompt])
            out = self._generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=request.max_new_tokens,
                eos_token_id=self._eos,
                pad_token_id=self._eos[0],
                **self._how,
            )
            answers.append(tuple(out[0, len(request.prompt) :].tolist()))
        return Outcome(tuple(answers), perf_counter() - begun)


def peers(target: Path, draft: Path | None, eos: frozenset[int]) -> list[Contestant]:
    """Those that this machine has. Greedy, batch 1."""
    model = _module(target)
    found = [
        Peer("transformers", model.generate, eos),
        Peer("transformers lookup", model.generate, eos, prompt_lookup_num_tokens=LOOKUP_TOKENS),
    ]
    if draft is not None:
        assistant = _module(draft)
        settings = assistant.generation_config
        settings.num_assistant_tokens = DRAFT_TOKENS
        settings.num_assistant_tokens_schedule = "constant"
        found.append(Peer("transformers assisted", model.generate, eos, assistant_model=assistant))
    return [*found, *_economize(target, draft, eos)]


def _module(folder: Path) -> Any:
    module: Any = load(folder, name=folder.name, dtype="auto", device="cpu", native=True).module
    # Some models ask for a penalty or for sampling by default.
    module.generation_config.repetition_penalty = 1.0
    module.generation_config.do_sample = False
    for name in ("temperature", "top_k", "top_p"):
        setattr(module.generation_config, name, None)
    return module


def _economize(target: Path, draft: Path | None, eos: frozenset[int]) -> list[Peer]:
    """It attaches to a model for good, so each method gets a model of its own."""
    if util.find_spec("economize") is None:
        return []
    library = import_module("economize")
    lookup = import_module("economize.techniques.lookup").LookupConfig()
    techniques = [("economize lookup", lookup, LOOKUP_TOKENS)]
    if draft is not None:
        config = import_module("economize.techniques.draft_model").DraftModelConfig(model=str(draft))
        techniques.append(("economize draft", config, DRAFT_TOKENS))
    found = []
    for name, technique, tokens in techniques:
        model = library.apply(_module(target), technique)
        decoding = library.DecodeConfig(cycle_length=tokens + 1)
        found.append(Peer(name, model.generate, eos, decoding=decoding))
    return found
