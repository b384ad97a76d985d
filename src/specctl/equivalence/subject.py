"""What is being verified: models and settings as plain parts, from a session or from tiny models in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specctl.decode.draft import Drafter
from specctl.decode.loop import Rules
from specctl.decode.sampling import Sampler
from specctl.decode.target import Target
from specctl.models.lm import LM


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything `decode` needs. The makers are called for each run, so that every run has fresh caches.

    `make_target` takes slots and capacity. `drafts` is False for plain decoding, which has nothing to exercise.
    `tokenizer` is None where the events carry no text to be checked.
    """

    target: LM
    make_target: Callable[[int, int], Target]
    make_drafter: Callable[[Sampler], Drafter]
    rules: Rules
    name: str
    numerics: str
    drafts: bool = True
    draft: LM | None = None
    tokenizer: Any = None
