"""Attention whose rows do not depend on how many rows there are.

Fused kernels pick their blocking by the number of queries, so a position's result changes with the length of
the draft around it. Two plain matrix products and a softmax in float32 do not (measured; `models/numerics.py`
tests it on each machine), as long as the sum over slots is cut at fixed places: beyond 1024 slots the product
splits its sum by their number, and that is set by the longest row of the batch and the length of the draft. Nor
may there be too few: a softmax over less than a vector register of slots adds them up in another order.
Queries that share a key head are stacked, so keys and values are never repeated.

In float32 the products too are chosen by the number of rows, and split sums of more than some 200 slots: there rows
are padded to whole blocks, and sums are cut earlier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as padded
from transformers import AttentionInterface

NAME = "specctl_plain"

_SLOTS_AT_ONCE = 512
_FEWEST_SLOTS = 32
_LEAST_DEPTH = 16
"""With shallower heads products of few rows have less than 400 terms; torch has another kernel for those, which
rounds a sum before the mask is added."""
_SLOTS_AT_ONCE_FLOAT32 = 128
_ROWS_AT_ONCE_FLOAT32 = 32


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    pads: tuple[int, ...] | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Query `[n, heads, q, d]`, key and value `[n, n_kv, width, d]`, additive mask `[n, 1, q, width]`.

    `pads`: slots that stand empty before each row. Such rows go one by one without their padding: behind it, sums
    over slots would be grouped differently. Returns `[n, q, heads, d]`, as transformers' attention functions do.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if pads is None:
        return _attend(query, key, value, attention_mask, scaling, softcap), None
    rows = [
        _attend(
            query[row : row + 1],
            key[row : row + 1, :, pad:],
            value[row : row + 1, :, pad:],
            attention_mask[row : row + 1, ..., pad:],
            scaling,
            softcap,
        )
        for row, pad in enumerate(pads)
    ]
    return torch.cat(rows), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    n, heads, q, d = query.shape
    n_kv, group = key.shape[1], heads // key.shape[1]
    missing = _FEWEST_SLOTS - key.shape[2]
    if missing > 0:
        key, value = padded(key, (0, 0, 0, missing)), padded(value, (0, 0, 0, missing))
        hidden = torch.finfo(attention_mask.dtype).min
        attention_mask = padded(attention_mask, (0, missing), value=hidden)
    stacked = query.reshape(n * n_kv, group * q, d)
    mask = attention_mask.expand(n, group, q, -1).reshape(n, group * q, -1)
    if n > 1:
        mask = mask.repeat_interleave(n_kv, dim=0)
    if query.dtype == torch.float32:
        more = -group * q % _ROWS_AT_ONCE_FLOAT32
        stacked, mask = padded(stacked, (0, 0, 0, more)), padded(mask, (0, 0, 0, more))
    scores = _scores(stacked, key.flatten(0, 1), mask, scaling, softcap)
    # Not in the model's own 16 bits: that kernel's sums depend on the number of slots.
    wide = torch.promote_types(query.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=wide).to(query.dtype)
    mixed = _weighted_sum(weights, value.flatten(0, 1))[:, : group * q]
    return mixed.reshape(n, heads, q, -1).transpose(1, 2).contiguous()


def _scores(stacked: Tensor, keys: Tensor, mask: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """`[n * n_kv, rows, width]`, masked. One kernel where nothing has to come between product and mask."""
    if softcap is None and stacked.shape[-1] >= _LEAST_DEPTH:
        return torch.baddbmm(mask, stacked, keys.transpose(1, 2), alpha=scaling)
    scores = torch.bmm(stacked * scaling, keys.transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores + mask


def _weighted_sum(weights: Tensor, value: Tensor) -> Tensor:
    """`weights @ value`, summed block by block of slots; blocks a row cannot see add exact zeros."""
    size = _SLOTS_AT_ONCE_FLOAT32 if weights.dtype == torch.float32 else _SLOTS_AT_ONCE
    starts = range(0, weights.shape[-1], size)
    if len(starts) == 1:
        return torch.bmm(weights, value)
    blocks = [slice(start, start + size) for start in starts]
    wide = torch.promote_types(weights.dtype, torch.float32)
    total = torch.bmm(weights[..., blocks[0]], value[:, blocks[0]]).to(wide)
    for block in blocks[1:]:
        total += torch.bmm(weights[..., block], value[:, block])
    return total.to(weights.dtype)


def register() -> str:
    """Make the function known to transformers; returns the name to load models with."""
    AttentionInterface.register(NAME, plain_attention)
    return NAME
