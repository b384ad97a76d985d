"""Attention whose rows do not depend on how many rows there are.

Fused kernels pick their blocking by the number of queries, so a position's result changes with the length of
the draft around it. Two plain matrix products and a softmax in float32 do not (measured; `models/numerics.py`
tests it on each machine), as long as the sum over slots is cut at fixed places: beyond 1024 slots the product
splits its sum by their number, and that is set by the longest row of the batch and the length of the draft.
Queries that share a key head are stacked, so keys and values are never repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "specctl_plain"

_SLOTS_AT_ONCE = 512


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Query `[n, heads, q, d]`, key and value `[n, n_kv, width, d]`, additive mask `[n, 1, q, width]`.

    Returns `[n, q, heads, d]`, as transformers' attention functions do.
    """
    n, heads, q, d = query.shape
    n_kv = key.shape[1]
    stacked = query.reshape(n, n_kv, heads // n_kv * q, d)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(n, n_kv, heads // n_kv, q, -1)
    scores = scores * (d**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + attention_mask[:, :, None]
    # float32 as in transformers' eager attention; float64 models (tests) keep their own precision.
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    mixed = _weighted_sum(weights.view(n, n_kv, -1, weights.shape[-1]), value)
    return mixed.view(n, heads, q, -1).transpose(1, 2).contiguous(), None


def _weighted_sum(weights: Tensor, value: Tensor) -> Tensor:
    """`weights @ value`, summed block by block of slots; blocks a row cannot see add exact zeros."""
    starts = range(0, weights.shape[-1], _SLOTS_AT_ONCE)
    if len(starts) == 1:
        return torch.matmul(weights, value)
    blocks = [slice(start, start + _SLOTS_AT_ONCE) for start in starts]
    wide = torch.promote_types(weights.dtype, torch.float32)
    total = torch.matmul(weights[..., blocks[0]], value[:, :, blocks[0]]).to(wide)
    for block in blocks[1:]:
        total += torch.matmul(weights[..., block], value[:, :, block])
    return total.to(weights.dtype)


def register() -> str:
    """Make the function known to transformers; returns the name to load models with."""
    AttentionInterface.register(NAME, plain_attention)
    return NAME
