"""A causal language model as decoding sees it: one forward over a slot cache.

Unmodified transformers modules do the arithmetic. What is ours is passed in explicitly: positions, a 4-D mask
and the cache. That makes batch rows independent, rollback free and sub-network views possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from specctl.models import views
from specctl.models.cache import SlotCache, Window

if TYPE_CHECKING:
    from specctl.models.streams import Streams

PREFILL_CHUNK = 256
"""Rows a prefill forward. Eager attention keeps chunk x context scores a head, so this bounds memory."""

_READER_FROM = 32
"""Tokens from which a `reader` is asked. With few, bytes count and the cheap weights win; with many, arithmetic."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A forward whose tokens are not a chain: several continuations of a row side by side.

    `places` `[n, width]`: the position of the token in each slot; `sight` `[n, q, width]` bool: the slots a query
    sees, its own among them. Its position is that of its own slot.
    """

    places: Tensor
    sight: Tensor


@dataclass(slots=True)
class LM:
    """A model, where it lives, the fewest rows a forward may have, and which tokens it can say.

    `row_floor` > 1 keeps every forward on the same kernels: short inputs get dummy columns behind the real
    ones, whose slots the next forward overwrites (see `models/numerics.py`). `fewest_rows` of all rows together do
    the same for speed (`models/rows.py`). `kept` `[k]`: the ids its logits
    are over, when its head is trimmed (`models/trimmed.py`); `vocab` in shapes is k then.
    `reads` > 0: its layers from there on are an adapter, over the states after that many layers of a target
    (`models/adapter.py`).
    `exits`: a sorted draft's (`models/sorted_draft.py`) depths, each with the probability of its best token up to
    which a deeper one is asked. `twin`: a copy of a target's layers, those below `reads` if it is not 0, in other
    weights, which can go on from the target's own cache. `packed`: `module` once more, weights laid out for the
    CPU's kernels; forwards run on it. `reader`: layers of the same shapes, without a head, that read prompts where
    that is faster. `streams` say more tokens behind each forward (`models/streams.py`).
    """

    module: nn.Module
    name: str
    row_floor: int = 1
    kept: Tensor | None = None
    reads: int = 0
    exits: tuple[tuple[int, float], ...] = ()
    twin: bool = False
    packed: nn.Module | None = None
    reader: nn.Module | None = None
    fewest_rows: int = 1
    streams: Streams | None = None
    _views: dict[tuple[int, int | None], nn.Module] = field(default_factory=dict, repr=False, compare=False)

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def context_length(self) -> int:
        return int(self.config.max_position_embeddings)

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    def columns(self, n: int, q: int) -> int:
        """Columns of a forward of q tokens in each of n rows, dummies included."""
        return max(q, self.row_floor, -(-self.fewest_rows // n))

    def new_cache(self) -> SlotCache:
        return SlotCache(self.n_layers)

    def forward(
        self,
        cache: SlotCache,
        tokens: Sequence[Sequence[int]],
        rows: range,
        *,
        offset: int = 0,
        tree: Tree | None = None,
    ) -> Tensor:
        """Run `tokens` `[n][q]` of `rows`, `offset` slots above what they have committed.

        With a `tree` there is no room for dummies: q must be `columns(n, q)`. Returns logits `[n, q, vocab]`. Slots
        are written, nothing is committed.
        """
        q = len(tokens[0])
        inputs = self._padded(tokens)
        out = self._run(self._runs, cache, rows, inputs.shape[1], offset, tree, input_ids=inputs)
        # Dummy columns go through the head too: its product with a single row has other bits.
        return cast(Tensor, out.logits)[:, :q]

    def forward_states(
        self,
        cache: SlotCache,
        tokens: Sequence[Sequence[int]],
        rows: range,
        *,
        offset: int = 0,
        tree: Tree | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`forward`'s logits, and the states `[n, q, H]` they are read off, behind the last norm."""
        seen: list[Tensor] = []
        head: Any = self._runs.lm_head
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            logits = self.forward(cache, tokens, rows, offset=offset, tree=tree)
        finally:
            hook.remove()
        return logits, seen[-1][:, : len(tokens[0])]

    def segment(
        self,
        cache: SlotCache,
        inputs: Sequence[Sequence[int]] | Tensor,
        rows: range,
        start: int,
        stop: int | None,
        *,
        offset: int = 0,
    ) -> Tensor:
        """Run the layers from `start` up to `stop`, or to the end and through the head if None.

        `inputs` are tokens `[n][q]` when `start` is 0, else the hidden states `[n, q, H]` after that many layers.
        Returns hidden states `[n, q, H]`, before any norm, or logits `[n, q, vocab]`.
        """
        view = self._view(start, stop)
        if isinstance(inputs, Tensor):
            q = inputs.shape[1]
            missing = self.columns(len(inputs), q) - q
            padded = torch.cat([inputs, inputs[:, -1:].expand(-1, missing, -1)], dim=1)
            out = self._run(view, cache, rows, padded.shape[1], offset, inputs_embeds=padded)
        else:
            q = len(inputs[0])
            tokens = self._padded(inputs)
            out = self._run(view, cache, rows, tokens.shape[1], offset, input_ids=tokens)
        return cast(Tensor, out.logits if stop is None else out.last_hidden_state)[:, :q]

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:
        """Logits `[n, q, vocab]` of hidden states `[n, q, H]` after any layer: the norm and the head alone."""
        n, q, _ = states.shape
        nowhere = Window(0, n, (0,) * n, q, (0,) * n)
        positions, mask = geometry(self.config, nowhere, self.dtype, self.device)
        # The model behind its last layer: some families scale or cap logits there.
        out = self._view(self.n_layers, None)(
            inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False
        )
        return cast(Tensor, out.logits)

    @property
    def _runs(self) -> nn.Module:
        return self.module if self.packed is None else self.packed

    def _view(self, start: int, stop: int | None) -> nn.Module:
        if (start, stop) not in self._views:
            self._views[start, stop] = views.segment(self._runs, start, stop)
        return self._views[start, stop]

    @torch.inference_mode()
    def _run(
        self,
        module: nn.Module,
        cache: SlotCache,
        rows: range,
        q: int,
        offset: int,
        tree: Tree | None = None,
        **inputs: Tensor | int,
    ) -> Any:
        window = cache.open_window(rows, q, offset, chain=tree is None)
        positions, mask = geometry(self.config, window, self.dtype, self.device, tree)
        # Passed through to `plain_attention`; transformers' own functions ignore it.
        padded: dict[str, Any] = {"pads": window.pads} if any(window.pads) else {}
        return module(
            **inputs,
            **padded,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )

    def _padded(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        q = len(tokens[0])
        missing = self.columns(len(tokens), q) - q
        return torch.tensor([[*row, *[row[-1]] * missing] for row in tokens], device=self.device)

    def prefill(self, cache: SlotCache, row: int, ids: Sequence[int]) -> None:
        """Append `ids` to one row and commit them, chunk by chunk; no logits are returned."""
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = ids[start : start + PREFILL_CHUNK]
            inputs = self._padded([chunk])
            only_row = range(row, row + 1)
            layers = self._view(0, self.n_layers)  # without the head: nobody asks
            if self.reader is not None and len(chunk) >= _READER_FROM:
                layers = self.reader
            self._run(layers, cache, only_row, inputs.shape[1], 0, input_ids=inputs)
            cache.commit(row, len(chunk))


def geometry(
    config: Any, window: Window, dtype: torch.dtype, device: torch.device, tree: Tree | None = None
) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
    """Positions `[n, q]` and additive masks `[n, 1, q, width]` of one forward.

    A query at position i sees positions 0..i, or the last `sliding_window` of them. Models that mix both kinds of
    layer take a dict of masks by kind, as their own forward does.
    """
    start = torch.tensor(window.starts, device=device)[:, None]
    positions = start + torch.arange(window.q, device=device)
    slots = torch.arange(window.width, device=device)
    distance = positions[:, None, :, None] - slots
    if any(window.pads):
        pads = torch.tensor(window.pads, device=device)[:, None, None, None]
        distance = (distance + pads).masked_fill(slots < pads, -1)
    if tree is not None:
        positions = tree.places.gather(1, positions)
        distance = (positions[:, :, None] - tree.places[:, None]).masked_fill(~tree.sight, -1)[:, None]
    full = _additive(distance >= 0, dtype)
    size = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if size is None or (kinds and "sliding_attention" not in kinds):
        return positions, ({"full_attention": full} if kinds else full)
    sliding = _additive((distance >= 0) & (distance < size), dtype)
    if not kinds:
        return positions, sliding
    return positions, {"full_attention": full, "sliding_attention": sliding}


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, hidden)
