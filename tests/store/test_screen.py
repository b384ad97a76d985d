from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specctl.errors import ModelFileError
from specctl.store import screen

MakeModel = Callable[..., Path]


def test_good_model(make_model: MakeModel) -> None:
    screened = screen.folder(make_model())
    assert screened.config["model_type"] == "llama"
    assert {name: info.shape for name, info in screened.tensors.items()} == {"a": (2, 3), "b": (4,)}


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
    ({"custom_code": True}, "code of its own"),
    ({"_attn_implementation_internal": "eager"}, "code of its own"),
    ({"text_config": {"trust_remote_code": True}}, "code of its own"),
    ({"trust_remote_code": False}, "code of its own"),
    ({"a": [{"b": [{"auto_map": {}}]}]}, "code of its own"),
    ({"_attn_implementation": "owner/kernel"}, "kernel from elsewhere"),
    ({"attn_implementation": {"": "owner/kernel@main"}}, "kernel from elsewhere"),
    ({"experts_implementation": "owner/kernel"}, "kernel from elsewhere"),
    ({"kernel_config": {"RMSNorm": "owner/kernel:RMSNorm"}}, "kernel from elsewhere"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
    ({"model_type": "mamba"}, "cannot be rolled back"),
    ({"model_type": "qwen3_next"}, "cannot be rolled back"),
    ({"model_type": "recurrent_gemma"}, "cannot be rolled back"),
    ({"model_type": "qwen3_moe"}, "mixture-of-experts"),
    ({"model_type": "mixtral"}, "mixture-of-experts"),
    ({"model_type": "lightglue"}, "not supported yet"),
    ({"model_type": "gpt2\x1b[2J"}, "not supported yet"),
    ({"model_type": None}, "does not say its `model_type`"),
    ({"model_type": ["llama"]}, "not supported yet"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "not a model that writes text"),
    ({"hidden_size": -1}, "`hidden_size` is -1"),
    ({"vocab_size": 1.5}, "`vocab_size` is 1.5"),
    ({"num_hidden_layers": True}, "`num_hidden_layers` is true"),
    ({"num_attention_heads": "2"}, "`num_attention_heads`"),
]


@pytest.mark.parametrize(("change", "reason"), HOSTILE)
def test_hostile_config(make_model: MakeModel, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        screen.folder(make_model(**change))
    assert (caught.value.message + (caught.value.hint or "")).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{", b'{"model_type": "llama", "model_type": "gpt2"}', b'{"a": NaN}', b"\xff\xfe{",
        b'{"a":' * 100_000, b"[" * 100_000, b'{"a": "' + b"x" * (2 << 20) + b'"}',
    ],
)  # fmt: skip
def test_config_that_is_no_json(make_model: MakeModel, text: bytes) -> None:
    folder = make_model()
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ModelFileError):
        screen.folder(folder)


def test_deep_nesting_is_refused_by_its_depth(make_model: MakeModel) -> None:
    value: Any = 1
    for _ in range(40):
        value = {"a": value}
    with pytest.raises(ModelFileError, match="nested too deeply"):
        screen.folder(make_model(deep=value))


def test_tokenizer_config_is_screened_too(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    with pytest.raises(ModelFileError, match="code of its own"):
        screen.folder(folder)


def test_only_pickled_weights(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="pickled") as caught:
        screen.folder(folder)
    assert "safetensors" in str(caught.value.hint)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelFileError, match=r"has no `model.safetensors`"):
        screen.folder(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a model folder"):
        screen.folder(tmp_path)
