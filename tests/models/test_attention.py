"""Attention over few slots: a row's bits do not depend on how many more slots a neighbour brings along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specctl.models import attention

WIDER = (1, 5, 17, 40, 600)


def attended(key: Tensor, value: Tensor, query: Tensor, width: int) -> Tensor:
    """Rows see `key`'s slots; up to `width` follow that are masked."""
    seen = key.shape[2]
    more = (0, 0, 0, width - seen)
    mask = torch.zeros(len(query), 1, query.shape[2], width, dtype=query.dtype)
    mask[..., seen:] = torch.finfo(query.dtype).min
    key, value = (torch.nn.functional.pad(part, more) for part in (key, value))
    mixed, _ = attention.plain_attention(torch.nn.Module(), query, key, value, mask)
    return mixed


def differing(n: int = 200) -> int:
    """Results that change with the width, over short contexts of 1 to 19 slots."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for seen in range(1, 20):
        query, key, value = (
            torch.randn(n, heads, length, 16, generator=generator).bfloat16()
            for heads, length in ((4, 2), (2, seen), (2, seen))
        )
        alone = attended(key, value, query * 4, seen)
        for more in WIDER:
            wrong += int((attended(key, value, query * 4, seen + more) != alone).sum())
    return wrong


def test_few_slots_have_the_bits_of_many() -> None:
    assert differing() == 0


def test_without_the_fewest_slots_some_bits_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where a machine's softmax sums every width alike, there is nothing to see."""
    monkeypatch.setattr(attention, "_FEWEST_SLOTS", 0)
    found = differing(2000)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert found > 0
