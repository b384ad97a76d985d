"""Layers of a fused decoder, run by `layers.c`: what the structures there are called, filled in."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from specctl.models.cache import SlotCache
from specctl.models.kernels.build import built
from specctl.models.quantize.int4_dot import Int4Dot, Matrix, address, matrix

_int64, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *(
            (name, _pointer)
            for name in ("before_attention", "before_mlp", "q_norm", "k_norm", "keys", "values")
        ),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, _int64) for name in ("heads", "kv_heads", "head_dim", "hidden")),
        ("eps", ctypes.c_float),
    )


class _Window(ctypes.Structure):
    _fields_ = (
        *((name, _int64) for name in ("n", "q", "first", "width", "capacity")),
        *((name, _pointer) for name in ("starts", "mask", "cos", "sin")),
    )


class Stack:
    """`layers` as `models/fused.py` has them, all of whose products are `Int4Dot`."""

    def __init__(self, layers: nn.ModuleList) -> None:
        first: Any = layers[0]
        self._numbers: list[int] = [one.index for one in list[Any](layers)]
        self._shape = _Shape(
            first.n_heads,
            first.n_kv,
            first.head_dim,
            first.out.out_features,
            first.before_attention.variance_epsilon,
        )
        self._held: list[Tensor] = []  # what the structures point to
        self._layers = (_Layer * len(layers))(*map(self._layer, layers))

    @staticmethod
    def fits(layers: nn.ModuleList) -> bool:
        return len(layers) > 0 and all(
            isinstance(product, Int4Dot)
            for layer in layers
            for product in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )

    def _layer(self, layer: Any) -> _Layer:
        products = (layer.qkv, layer.out, layer.gate_up, layer.down)
        norms = (layer.before_attention, layer.before_mlp, layer.q_norm, layer.k_norm)
        weights = [None if norm is None else norm.weight for norm in norms]
        return _Layer(
            *(matrix(one.blocks, self._wide(one.bias)) for one in products),
            *(address(self._wide(weight)) for weight in weights),
            None,
            None,
        )

    def _wide(self, weight: Tensor | None) -> Tensor | None:
        if weight is None:
            return None
        self._held.append(weight.detach().float().contiguous())
        return self._held[-1]

    def __call__(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: SlotCache
    ) -> Tensor:
        """States `[n, q, H]` in, and out in float32. `turn`: cosines and sines `[n, q, head_dim]` in float32;
        `mask` additive `[n, 1, q, width]` in bfloat16."""
        n, q, hidden = x.shape
        states = torch.empty(n, q, hidden).copy_(x)
        mask = None if mask is None else mask.contiguous()
        window = cache.window
        starts = (_int64 * n)(*window.slots)
        self._point_into(cache)
        cos, sin = (table.expand(n, -1, -1).contiguous() for table in turn)
        found = _Window(
            n,
            q,
            window.first,
            window.width,
            cache.capacity,
            ctypes.addressof(starts),
            address(mask),
            address(cos),
            address(sin),
        )
        kernels = built()
        assert kernels is not None
        failed = kernels.run_layers(
            ctypes.byref(self._shape),
            self._layers,
            _int64(len(self._layers)),
            ctypes.byref(found),
            _pointer(states.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
        )
        if failed:
            raise MemoryError("no memory for a draft's step")
        return states

    def _point_into(self, cache: SlotCache) -> None:
        slots = cache.slot_layers
        for number, layer in zip(self._numbers, self._layers, strict=True):
            slot = slots[number]
            if not slot.is_initialized:
                like = torch.empty(1, self._shape.kv_heads, 1, self._shape.head_dim, dtype=torch.bfloat16)
                slot.lazy_initialization(like, like)
            keys, values = slot.tensors()
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
