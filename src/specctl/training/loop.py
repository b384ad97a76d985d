"""The one training loop: seeded batches, AdamW, evaluation, checkpoints that resume bit for bit, early stop.

What is learnt is an `Objective`, one file each. What a person sees is a stream of events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from specctl.errors import RequestError
from specctl.store.files import write_atomic
from specctl.training.muon import Muon

CHECKPOINT = "checkpoint.safetensors"
_WINDOW = 8
"""Batches whose samples are sorted by length together: little padding, and still random batches."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`batch` in samples; a step is one batch. `patience`: evaluations without a better acceptance.

    `optimiser` is `adamw`, or `muon` for matrices and AdamW for the rest.
    """

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 50
    evaluate_every: int = 100
    patience: int = 6
    seed: int = 0
    optimiser: str = "adamw"


@dataclass(frozen=True, slots=True)
class Figures:
    """Held-out: share of equal top-1 tokens, expected acceptance (the mean of sum min(p, q)), loss."""

    top1: float
    acceptance: float
    loss: float


@dataclass(frozen=True, slots=True)
class Stepped:
    step: int
    loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    step: int
    figures: Figures
    best: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """`reason` is `done`, `early` or `cancelled`."""

    step: int
    reason: str


TrainEvent = Stepped | Evaluated | Ended


class Objective(Protocol):
    """What is trained, and on what. Sample numbers are indices into data the objective knows."""

    module: nn.Module

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        """The mean loss of a batch, and its number of trained positions."""

    def measure(self, samples: Sequence[int]) -> Figures:
        """Held-out figures of these samples."""


@dataclass(slots=True)
class Split:
    """Sample numbers and their lengths in tokens; every twentieth sample is held out."""

    lengths: list[int]

    @property
    def held_out(self) -> list[int]:
        return list(range(0, len(self.lengths), 20))

    @property
    def train(self) -> list[int]:
        return [number for number in range(len(self.lengths)) if number % 20]

    def batch(self, step: int, size: int, seed: int) -> list[int]:
        """The batch of a step: a function of its arguments alone, so that a resumed run meets the same ones."""
        numbers = self.train
        per_epoch = max(len(numbers) // size, 1)
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = [numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist()]
        window = place // _WINDOW * _WINDOW
        pool = order[window * size : min(window + _WINDOW, per_epoch) * size]
        pool.sort(key=lambda number: self.lengths[number])
        inside = place - window
        return pool[inside * size : (inside + 1) * size]


class Trainer:
    """An objective with its optimiser state. `best` and `figures` are those of the best evaluation so far;
    before the first one, `best` is what there is at the end of a run. `curve`: all evaluations so far.
    """

    def __init__(
        self, objective: Objective, split: Split, settings: Settings, folder: Path, about: str = ""
    ) -> None:
        """`about` says what is trained; a checkpoint of anything else is refused."""
        self.objective, self.split, self.settings, self.folder = objective, split, settings, folder
        self._about = about
        self.step, self.stale = 0, 0
        self.figures: Figures | None = None
        self.curve: list[Evaluated] = []
        self._named = dict(objective.module.named_parameters())
        muon = settings.optimiser == "muon"
        matrices = [tensor for tensor in self._named.values() if muon and tensor.dim() == 2]
        others = [tensor for tensor in self._named.values() if not muon or tensor.dim() != 2]
        self._optimisers: list[torch.optim.Optimizer] = []
        if others:
            self._optimisers.append(torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01))
        if matrices:
            self._optimisers.append(Muon(matrices, weight_decay=0.01))
        self.best = self._now()

    def run(self, cancelled: Callable[[], bool] = lambda: False) -> Iterator[TrainEvent]:
        """Train until done, stale or cancelled; checkpoints at every evaluation and at the end."""
        while self.step < self.settings.steps and self.stale < self.settings.patience and not cancelled():
            yield self._one_step()
            if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                yield self._evaluate()
                self.save()
        if self.figures is None:
            self.best = self._now()
        reason = "early" if self.stale >= self.settings.patience else "done"
        self.save()
        yield Ended(
            self.step, reason if reason == "early" or self.step == self.settings.steps else "cancelled"
        )

    def _one_step(self) -> Stepped:
        begun = perf_counter()
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._rate()
        loss, tokens = self.objective.loss(
            self.split.batch(self.step, self.settings.batch, self.settings.seed)
        )
        self.objective.module.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._named.values(), 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        self.step += 1
        return Stepped(self.step, float(loss.detach()), tokens, perf_counter() - begun)

    def _rate(self) -> float:
        """Linear warm-up, then a cosine to a twentieth."""
        wish = self.settings
        if self.step < wish.warmup:
            return wish.learning_rate * (self.step + 1) / wish.warmup
        part = (self.step - wish.warmup) / max(wish.steps - wish.warmup, 1)
        return wish.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * part)))

    def _evaluate(self) -> Evaluated:
        with torch.no_grad():
            figures = self.objective.measure(self.split.held_out)
        better = self.figures is None or figures.acceptance > self.figures.acceptance
        self.stale = 0 if better else self.stale + 1
        if better:
            self.figures = figures
            self.best = self._now()
        self.curve.append(Evaluated(self.step, figures, better))
        return self.curve[-1]

    def _now(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._named.items()}

    def save(self) -> None:
        """Everything a resumed run needs, in one file."""
        tensors = {f"now.{name}": tensor.detach() for name, tensor in self._named.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for optimiser in self._optimisers:
            for tensor, state in optimiser.state.items():
                tensors |= {f"state.{key}.{self._name(tensor)}": value for key, value in state.items()}
        best = astuple(self.figures) if self.figures else ()
        curve = [[one.step, one.best, *astuple(one.figures)] for one in self.curve]
        tensors["curve"] = torch.tensor(curve, dtype=torch.float64)
        tensors["progress"] = torch.tensor([self.step, self.stale, *best], dtype=torch.float64)
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomic(self.folder / CHECKPOINT, save(whole, metadata={"about": self._about}))

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False if there is none. Raises RequestError for a foreign one."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                about = (file.metadata() or {}).get("about")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise RequestError(
                f"cannot go on from `{path}`: {error}", hint="remove it to start again"
            ) from error
        if about != self._about:
            raise RequestError(
                f"`{self.folder}` holds a training of another kind, or on other data",
                hint="choose another folder, or give the options it was begun with",
            )
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(tensors[f"now.{name}"])
                self.best[name] = tensors[f"best.{name}"]
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    optimiser.state[parameter] = _state(tensors, self._name(parameter))
        step, stale, *best = tensors["progress"].tolist()
        self.step, self.stale = int(step), int(stale)
        self.figures = Figures(*best) if best else None
        self.curve = [
            Evaluated(int(at), Figures(*figures), bool(better))
            for at, better, *figures in tensors["curve"].tolist()
        ]
        return True

    def _name(self, parameter: Tensor) -> str:
        return next(name for name, tensor in self._named.items() if tensor is parameter)


def _state(tensors: dict[str, Tensor], parameter: str) -> dict[str, Tensor]:
    """What an optimiser knows of a parameter, by key; nothing before its first step."""
    parts = (name.split(".", 2) for name in tensors if name.startswith("state."))
    return {key: tensors[f"state.{key}.{name}"] for _, key, name in parts if name == parameter}
