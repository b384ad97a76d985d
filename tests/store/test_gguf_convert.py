from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from store_fakes import Recorder

from specctl.errors import ModelFileError
from specctl.store import fetch, gguf_convert, screen, vocabulary
from specctl.store.progress import SilentProgress

ALPHABET = sorted({chr(n) for n in range(33, 127)} | {"Ġ", "Ċ"})
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*ALPHABET, "ab", *SPECIAL, "[PAD99]"]
TYPES = [1] * (len(ALPHABET) + 1) + [3] * len(SPECIAL) + [5]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
WIDTH = 64


def weights(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_gguf(path: Path, *, drop: str = "", head: Any = None, architecture: str = "qwen2") -> Path:
    """A two-layer Qwen2 of width 64, weights in Q8_0, norms and biases in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TYPES)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(TOKENS.index("<|im_end|>"))
    writer.add_bos_token_id(TOKENS.index("<|endoftext|>"))
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(2):
        block = {
            "attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,),
            "attn_q.weight": (WIDTH, WIDTH), "attn_q.bias": (WIDTH,),
            "attn_k.weight": (WIDTH // 2, WIDTH), "attn_k.bias": (WIDTH // 2,),
            "attn_v.weight": (WIDTH // 2, WIDTH), "attn_v.bias": (WIDTH // 2,),
            "attn_output.weight": (WIDTH, WIDTH), "ffn_gate.weight": (2 * WIDTH, WIDTH),
            "ffn_up.weight": (2 * WIDTH, WIDTH), "ffn_down.weight": (WIDTH, 2 * WIDTH),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for seed, (name, shape) in enumerate(shapes.items()):
        if name != drop:
            _add(writer, name, weights(seed, *shape))
    if head is not None:
        writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    folder.mkdir()
    gguf_convert.convert(write_gguf(tmp_path / "tiny.gguf"), folder, SilentProgress())
    return folder


def test_weights_are_those_of_the_file(converted: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(converted, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    embedding = torch.from_numpy(weights(0, len(TOKENS), WIDTH))
    assert torch.allclose(model.model.embed_tokens.weight.float(), embedding, atol=0.05)
    norm = torch.from_numpy(weights(1, WIDTH)).to(torch.bfloat16)
    assert torch.equal(model.model.norm.weight, norm)
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, len(TOKENS))


def test_folder_passes_our_own_screens(converted: Path) -> None:
    screened = screen.folder(converted)
    assert {info.dtype for info in screened.tensors.values()} == {"BF16"}
    assert "lm_head.weight" not in screened.tensors
    assert screened.config["tie_word_embeddings"] is True
    assert screened.config["dtype"] == "bfloat16"
    assert "quantization_config" not in screened.config


def test_tokenizer_and_ends(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(converted)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab!"}], tokenize=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "<|im_start|>"
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "<|im_end|>"
    assert tokenizer.decode(tokenizer.encode("ab c!")) == "ab c!"
    words = vocabulary.read(converted)
    assert "[PAD99]" not in words.tokens.values()
    assert {words.text(index) for index in words.ends} == {"<|im_end|>", "<|endoftext|>"}
    assert words.template == TEMPLATE
    assert json.loads((converted / "tokenizer.json").read_text())["normalizer"] == {"type": "NFC"}


def test_a_head_that_is_the_embedding_again_is_tied(tmp_path: Path) -> None:
    for name, head, tied in (
        ("same", weights(0, len(TOKENS), WIDTH) + 0.01 * weights(99, len(TOKENS), WIDTH), True),
        ("other", weights(99, len(TOKENS), WIDTH), False),
    ):
        folder = tmp_path / name
        folder.mkdir()
        gguf_convert.convert(write_gguf(tmp_path / f"{name}.gguf", head=head), folder, SilentProgress())
        screened = screen.folder(folder)
        assert screened.config["tie_word_embeddings"] is tied
        assert ("lm_head.weight" in screened.tensors) is not tied


def test_missing_weight_is_noticed(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", drop="blk.1.ffn_up.weight")
    with pytest.raises(ModelFileError, match=r"`model.layers.1.mlp.up_proj.weight` for one"):
        gguf_convert.convert(source, tmp_path, SilentProgress())


def test_local_file_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    progress = Recorder()
    folder = fetch.fetch(str(source), offline=True, progress=progress)
    assert [what for what, _ in progress.started] == [
        "checking tiny.gguf",
        "converting to safetensors (bf16)",
    ]
    assert progress.advanced == sum(total or 0 for _, total in progress.started)
    monkeypatch.setattr(gguf_convert, "convert", None)
    assert fetch.fetch(str(source), offline=True, progress=progress) == folder


def test_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    calls = 0

    def interrupted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(gguf_convert, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(str(source), offline=True, progress=SilentProgress())
    assert list((tmp_path / "own" / "data" / "models").iterdir()) == []
