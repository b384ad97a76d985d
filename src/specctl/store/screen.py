"""Look at a model's folder before any library does: what it is, and whether it may be loaded at all.

Never trusting remote code has not been a boundary by itself (CVE-2026-4372, CVE-2026-5241 ran code through
`config.json`), so the model type must be on a list and the keys that led there are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specctl.errors import ModelFileError
from specctl.store import strict_json
from specctl.store.safetensors_screen import TensorInfo, index_files, read_header

MODEL_TYPES = frozenset({
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "glm", "glm4", "phi3", "olmo2", "smollm3",
    "granite",
})  # fmt: skip
_RECURRENT = frozenset({
    "mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba", "zamba2", "nemotron_h",
    "plamo2", "rwkv", "rwkv5", "rwkv6", "rwkv7", "xlstm", "qwen3_next", "qwen3_5", "qwen3_5_text",
    "recurrent_gemma", "granitemoehybrid", "olmo_hybrid", "lfm2", "lfm2_moe", "minimax", "kimi_linear",
})  # fmt: skip
_MAX_DEPTH = 32
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings")


@dataclass(frozen=True, slots=True)
class Screened:
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]


def folder(path: Path) -> Screened:
    """Raises ModelFileError for anything missing, lying, hostile or not supported. Reads no weight."""
    parsed = config(_load_json(path, "config.json"), path.name)
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (path / name).exists():
            _refuse_hostile(_load_json(path, name), f"{path.name}/{name}")
    return Screened(parsed, _weights(path))


def config(parsed: dict[str, Any], where: str) -> dict[str, Any]:
    """Screen a parsed `config.json`, and return it."""
    _refuse_hostile(parsed, f"{where}/config.json")
    model_type(parsed.get("model_type"), where)
    if "quantization_config" in parsed:
        raise ModelFileError(
            f"`{where}` is quantised, and quantised targets are not supported yet",
            hint="take the repository with the original weights, or a .gguf file, which is dequantised once",
        )
    architectures = parsed.get("architectures")
    if architectures is not None and "ForCausalLM" not in str(architectures):
        shown = ascii(architectures)[:60]
        raise ModelFileError(f"`{where}` is {shown}, not a model that writes text")
    for key in (*_SIZES, *(key for key in _OPTIONAL_SIZES if parsed.get(key) is not None)):
        value = parsed.get(key)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise ModelFileError(f"`{where}/config.json` says `{key}` is {json.dumps(value)[:40]}")
    return parsed


def model_type(name: object, where: str) -> None:
    if isinstance(name, str) and name in MODEL_TYPES:
        return
    shown = str(name)[:60].encode("unicode_escape").decode()
    if name is None:
        raise ModelFileError(f"`{where}/config.json` does not say its `model_type`")
    if shown in _RECURRENT:
        raise ModelFileError(
            f"`{where}` is a recurrent or hybrid model (`{shown}`): its state cannot be rolled back when a "
            "draft is rejected",
            hint=f"take a model of pure attention: {', '.join(sorted(MODEL_TYPES))}",
        )
    kind = (
        "mixture-of-experts models are" if "moe" in shown or shown == "mixtral" else f"`{shown}` models are"
    )
    raise ModelFileError(
        f"`{where}`: {kind} not supported yet", hint=f"supported: {', '.join(sorted(MODEL_TYPES))}"
    )


def _load_json(path: Path, name: str) -> dict[str, Any]:
    try:
        text = (path / name).read_bytes()
    except OSError:
        raise ModelFileError(f"`{path}` has no readable `{name}`, so it is not a model folder") from None
    return strict_json.loads(text, f"{path.name}/{name}")


def _refuse_hostile(value: Any, where: str, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ModelFileError(f"`{where}` is nested too deeply")
    if isinstance(value, list):
        for item in value:
            _refuse_hostile(item, where, depth + 1)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in ("auto_map", "custom_code", "custom_generate", "trust_remote_code") or key.endswith(
            "_internal"
        ):
            shown = key[:60].encode("unicode_escape").decode()
            raise ModelFileError(
                f"`{where}` asks for code of its own (`{shown}`)", hint="specctl never runs code from a model"
            )
        if ("attn" in key or "kernel" in key or key.endswith("_implementation")) and _names_a_repository(
            item
        ):
            raise ModelFileError(
                f"`{where}` asks for a kernel from elsewhere (`{key[:60]}`)",
                hint="specctl never runs code from a model",
            )
        _refuse_hostile(item, where, depth + 1)


def _names_a_repository(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return any(isinstance(item, str) and "/" in item for item in values)


def _weights(path: Path) -> dict[str, TensorInfo]:
    single = path / "model.safetensors"
    index = path / "model.safetensors.index.json"
    if single.exists():
        return read_header(single)
    if index.exists():
        return index_files(path, _load_json(path, index.name))
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise ModelFileError(
            f"`{path}` has only pickled weights (.bin), which can run code when opened",
            hint="take a revision with safetensors (on the hub often `OWNER/REPO@refs/pr/1`)",
        )
    raise ModelFileError(f"`{path}` has no `model.safetensors`")
