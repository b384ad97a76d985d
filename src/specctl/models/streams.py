"""Streams: what lets a draft say several tokens a forward (Mirror-SD's speculative streaming).

On the draft's final state stands a chain of small cells. Cell j reads the state before it and the token that was
just drafted, and the draft's own frozen head reads the next token's law off its state. So each law is a proper one
given all tokens before it, and sampled verification is left as it was. Source: Mirror Speculative Decoding; the
residual cell is Medusa's (arXiv:2401.10774), one reading the other's token as in Hydra (arXiv:2402.05109).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu

from specctl.errors import ModelFileError
from specctl.models import trained
from specctl.models.lm import LM

KIND = trained.Kind("streams", "set of streams", "draft.streams")


@dataclass(frozen=True, slots=True)
class Shape:
    """`count`: tokens a forward gives besides its own; `size`: the width H of the draft's states; `inner`: a cell's
    own."""

    count: int
    size: int
    inner: int


class Cells(nn.Module):
    """The trained part: `down[j]` `[inner, 2H]`, `up[j]` `[H, inner]`. At first a state is handed on as it is."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        some = torch.Generator().manual_seed(0)
        start = (2 * shape.size) ** -0.5
        numbers = range(shape.count)
        self.down = nn.ParameterList(
            nn.Parameter(torch.randn(shape.inner, 2 * shape.size, generator=some) * start) for _ in numbers
        )
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(shape.size, shape.inner)) for _ in numbers)

    def forward(self, number: int, state: Tensor, embedded: Tensor) -> Tensor:
        """The state `[n, H]` of stream `number`, from the one before it and the embedding of the newest token.

        Both are brought to one scale first: embeddings are much the smaller.
        """
        size = (self.shape.size,)
        seen = torch.cat([rms_norm(state, size), rms_norm(embedded, size)], dim=-1)
        change = linear(silu(linear(seen.to(self.down[number].dtype), self.down[number])), self.up[number])
        return state + change.to(state.dtype)


def read_off(states: Tensor, head: Tensor, config: Any) -> Tensor:
    """Logits, at least in float32, with the scale and the cap some families put on theirs."""
    wide = torch.promote_types(states.dtype, torch.float32)
    logits = linear(states.to(head.dtype), head).to(wide) / float(
        getattr(config, "logits_scaling", None) or 1
    )
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class Streams:
    """Trained cells with the draft's embedding, and its head over the ids `kept` `[k]` (None: over all)."""

    def __init__(self, lm: LM, cells: Cells, kept: Tensor | None) -> None:
        inner: Any = lm.module
        head = cast(Tensor, inner.get_output_embeddings().weight).detach()
        self.kept = None if kept is None else kept.to(lm.device)
        self._head = head if self.kept is None else head[self.kept]
        self._embed: nn.Module = inner.get_input_embeddings()
        self._cells, self._config, self._device = cells, lm.config, lm.device

    def __len__(self) -> int:
        return self._cells.shape.count

    @property
    def shape(self) -> tuple[Shape, int]:
        """What their time depends on: the cells' shape, and how many ids their head is over."""
        return self._cells.shape, len(self._head)

    @torch.inference_mode()
    def follow(self, number: int, states: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Stream `number`, from 0: on from `states` `[n, H]`, behind which `tokens` were drafted. Returns states of
        its own and logits `[n, k]`."""
        ids = torch.tensor(tokens, device=self._device)
        states = self._cells(number, states, self._embed(ids))
        return states, read_off(states, self._head, self._config)


def write(
    folder: Path,
    lm: LM,
    tensors: Mapping[str, Tensor],
    shape: Shape,
    kept: Tensor | None,
    card: Mapping[str, Any],
) -> None:
    """Trained cells and their card, in the draft's dtype."""
    trained.write(KIND, folder, lm, tensors, asdict(shape), kept, card)


def read(folder: Path, lm: LM) -> Streams:
    """The streams in `folder` for `lm`, whole and untrimmed. Raises ModelFileError."""
    stored = trained.read(KIND, folder, lm)
    try:
        cells = Cells(Shape(**stored.shape)).to(lm.device, lm.dtype)
        cells.load_state_dict(stored.tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the streams `{folder}` do not fit `{lm.name}`: {error}") from error
    return Streams(lm, cells.requires_grad_(False).eval(), stored.kept)


def find(where: str, lm: LM) -> Streams:
    """Those in a folder, or with `shipped` those that come with specctl for these weights. Raises MissingError,
    ModelFileError."""
    return read(trained.shipped(KIND, lm)[0] if where == "shipped" else Path(where), lm)
