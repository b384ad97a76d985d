"""A decoder with fewer, larger steps, for drafting: once weights are small, starting kernels is what costs.

Query, key and value are one product, gate and up another, the norm is one kernel, attention torch's fused one. It
has weights of its own, stands in for transformers' module in an `LM`, and computes the same up to rounding. The
target never runs on it: its rows depend on the shape of the forward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specctl.models.cache import SlotCache
from specctl.models.kernels.stack import Stack

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""From weight and bias to the layer that stands for them."""

_KINDS = {"llama", "qwen2", "qwen3"}


def fits(module: Any) -> bool:
    """Whether this is a model of the kind that is written down here."""
    config = module.config
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        config.model_type in _KINDS
        and config.hidden_act == "silu"
        and layer_types == {"full_attention"}
        and getattr(module, "lm_head", None) is not None
    )


@dataclass(frozen=True, slots=True)
class Output:
    """As transformers' models return it. Logits `[n, q, vocab]`."""

    logits: Tensor


@dataclass(frozen=True, slots=True)
class States:
    """What layers without a head return, `[n, q, H]` before any norm."""

    last_hidden_state: Tensor


class FusedDecoder(nn.Module):
    """Built from transformers' module, layer by layer; embedding, norms and rotary table are shared with it."""

    def __init__(
        self, module: Any, make: MakeLinear, done: Callable[[nn.Module], None] = lambda _: None
    ) -> None:
        """`done` is told of each layer of the module that has been read."""
        super().__init__()
        base = module.model
        self.config = module.config
        self.embed_tokens, self.norm, self.rotary_emb = base.embed_tokens, base.norm, base.rotary_emb
        self.layers = nn.ModuleList()
        for layer in base.layers:
            self.layers.append(_Layer(layer, module.config, make))
            done(layer)
        self.lm_head = make(module.lm_head.weight, module.lm_head.bias)
        self._reads_out = True
        self._stack: Stack | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy may have other layers: it puts them together anew.
        return {**self.__dict__, "_stack": None}

    def part(self, start: int, stop: int | None) -> FusedDecoder:
        """The layers from `start` up to `stop`, or to the end and through the head if None, as `views.segment`."""
        view = copy.copy(self)
        view._modules = {**self._modules, "layers": self.layers[start:stop]}
        view._reads_out = stop is None
        return view

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: SlotCache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 0,
        pads: tuple[int, ...] = (),
    ) -> Output | States:
        """Tokens `[n, q]` or states `[n, q, H]`, an additive mask and positions as `LM` gives them; without a
        cache: causal, from 0. `pads` are in the mask already."""
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x = self._through(x, attention_mask, position_ids, past_key_values)
        if not self._reads_out:
            return States(x)
        return Output(self.lm_head(_norm(x[:, -logits_to_keep:], self.norm)))

    def _through(
        self,
        x: Tensor,
        attention_mask: Tensor | dict[str, Tensor] | None,
        position_ids: Tensor | None,
        cache: SlotCache | None,
    ) -> Tensor:
        if not self.layers:
            return x
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device)[None]
        if cache is not None and (stack := self._in_one_call()) is not None:
            seen = None if cache.window.sees_all else _full(attention_mask)
            return stack(x, self.rotary_emb(x.float(), position_ids), seen, cache).to(x.dtype)
        mask = self._mask(attention_mask, cache, x.shape[1])
        cos, sin = self.rotary_emb(x, position_ids)
        half = sin.shape[-1] // 2
        # Turning half a head and negating it is one roll, once the sign is in the table.
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        turn = cos[:, :, None], sin[:, :, None]
        for layer in self.layers:
            x = layer(x, turn, mask, cache)
        return x

    def _in_one_call(self) -> Stack | None:
        """The layers for `models/kernels`, if their products are made for it."""
        if self._stack is None and Stack.fits(self.layers):
            self._stack = Stack(self.layers)
        return self._stack

    def _mask(
        self, given: Tensor | dict[str, Tensor] | None, cache: SlotCache | None, q: int
    ) -> Tensor | None:
        """`[n, 1, group * q, width]` for the stacked queries; None where every query sees every slot."""
        if cache is not None and cache.window.sees_all:
            return None
        mask = _full(given)
        if mask is None:
            square = torch.full((q, q), float("-inf"), dtype=self.norm.weight.dtype)
            mask = square.triu_(1).to(self.norm.weight.device)[None, None]
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        return mask.repeat(1, 1, group, 1)


class _Layer(nn.Module):
    def __init__(self, layer: Any, config: Any, make: MakeLinear) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.index = attention.layer_idx
        self.head_dim = attention.head_dim
        self.n_heads, self.n_kv = config.num_attention_heads, config.num_key_value_heads
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj], make)
        self.out = _joined([attention.o_proj], make)
        self.gate_up = _joined([mlp.gate_proj, mlp.up_proj], make)
        self.down = _joined([mlp.down_proj], make)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: SlotCache | None
    ) -> Tensor:
        x = x + self.out(self._attend(_norm(x, self.before_attention), turn, mask, cache))
        gate, up = self.gate_up(_norm(x, self.before_mlp)).chunk(2, dim=-1)
        result: Tensor = x + self.down(F.silu(gate) * up)
        return result

    def _attend(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: SlotCache | None
    ) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        turned, value = heads.split([self.n_heads + self.n_kv, self.n_kv], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = turned.split([self.n_heads, self.n_kv], dim=2)
            turned = torch.cat([_norm(query, self.q_norm), _norm(key, self.k_norm)], dim=2)
        cos, sin = turn
        turned = torch.addcmul(turned * cos, turned.roll(self.head_dim // 2, -1), sin)
        query, key = turned.transpose(1, 2).split([self.n_heads, self.n_kv], dim=1)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.index)
        # Queries that share a key head stacked as rows: torch's kernel is up to 5 times slower with `enable_gqa`.
        stacked = query.reshape(len(x), self.n_kv, -1, self.head_dim)
        mixed = F.scaled_dot_product_attention(stacked, key, value, attn_mask=mask)
        return mixed.reshape(query.shape).transpose(1, 2).flatten(2)


def _full(mask: Tensor | dict[str, Tensor] | None) -> Tensor | None:
    return mask["full_attention"] if isinstance(mask, dict) else mask


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _joined(linears: list[Any], make: MakeLinear) -> nn.Module:
    """One layer for several that read the same input."""
    biases = [linear.bias for linear in linears if linear.bias is not None]
    if len(linears) == 1:
        return make(linears[0].weight, linears[0].bias)
    weight = torch.cat([linear.weight.detach() for linear in linears])
    return make(weight, torch.cat([bias.detach() for bias in biases]) if biases else None)
