"""The worker: a draft model that is asked through pipes (`mirror/worker.py`). It ends when its input does."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import torch

from specctl.decode.draft import Key, Row
from specctl.decode.sampling import Law, Sampler
from specctl.mirror.branches import Branch, Plan
from specctl.mirror.outcomes import Guess
from specctl.mirror.worker import Recipe
from specctl.mirror.writer import Writer
from specctl.models import streams, trimmed
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.models.load import load


class Office:
    """The writers of all drafters that draft here, by their number; every method is a question or a remark."""

    def __init__(self, lm: LM, vocab_size: int) -> None:
        self._lm, self._vocab_size = lm, vocab_size
        self._writers: dict[int, Writer] = {}

    def open(self, at: int, law: Law, coupled: bool, eos: frozenset[int], plan: Plan) -> None:
        sampler = Sampler.keyed(law, coupled=coupled)
        self._writers[at] = Writer(self._lm, self._vocab_size, sampler, eos, plan)

    def close(self, at: int) -> None:
        self._writers.pop(at, None)

    def begin(self, at: int, row: Row) -> None:
        self._writers[at].begin(row)

    def swap(self, at: int, one: int, other: int) -> None:
        self._writers[at].swap(one, other)

    def drop(self, at: int, slot: int) -> None:
        self._writers[at].drop(slot)

    def write(self, at: int, rows: Sequence[Row], room: Sequence[int]) -> list[Branch]:
        return [_packed(branch) for branch in self._writers[at].write(rows, room)]

    def branch(
        self,
        at: int,
        rows: Sequence[Row],
        drafts: Sequence[Branch],
        exits: Sequence[Guess],
        budget: Sequence[int],
    ) -> tuple[list[list[Key]], float]:
        """The keys of the branches, and the seconds they took."""
        begun = perf_counter()
        self._writers[at].branch(rows, drafts, exits, budget)
        return self._writers[at].keys, perf_counter() - begun

    def take(self, at: int, verdicts: Sequence[Key | None]) -> list[Branch | None]:
        taken = self._writers[at].take(verdicts)
        return [None if branch is None else _packed(branch) for branch in taken]


def _packed(branch: Branch) -> Branch:
    return branch if branch.q is None else replace(branch, q=branch.q.cpu())


def open_draft(recipe: Recipe) -> LM:
    folder = Path(recipe.folder)
    lm = whole = load(folder, name=recipe.name, dtype=recipe.dtype, device=recipe.device, native=True)
    if recipe.trim is not None:
        lm = trimmed.trimmed(lm, trimmed.read(Path(recipe.trim), lm, folder, recipe.vocab_size))
    draft, _ = cheapened(lm, recipe.quantize)
    if recipe.streams is not None:
        draft.streams = streams.find(recipe.streams, whole)
    return draft


def serve(inlet: IO[bytes], outlet: IO[bytes]) -> None:
    """Answer until the input ends."""
    recipe: Recipe = pickle.load(inlet)
    torch.set_num_threads(recipe.threads)
    office = Office(open_draft(recipe), recipe.vocab_size)
    _answer(outlet, 0, True)
    while True:
        try:
            number, what, args = pickle.load(inlet)
        except EOFError:
            return
        said = getattr(office, what)(*args)
        if number is not None:
            _answer(outlet, number, said)


def _answer(outlet: IO[bytes], number: int, said: Any) -> None:
    pickle.dump((number, said), outlet, protocol=5)
    outlet.flush()


def until_the_end(inlet: IO[bytes], outlet: IO[bytes]) -> None:
    """Serve; what goes wrong is the last answer."""
    try:
        serve(inlet, outlet)
    except BrokenPipeError:
        pass
    except Exception as error:
        _answer(outlet, -1, f"the worker failed ({type(error).__name__})")


def main() -> None:
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What libraries print must not get between the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    until_the_end(inlet, outlet)


if __name__ == "__main__":
    main()
