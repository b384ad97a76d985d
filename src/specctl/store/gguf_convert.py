"""Turn a GGUF file, once, into what loads in no time: bf16 safetensors, config and tokenizer.

Tensors are dequantised one piece at a time and written as they come, so the peak is far below the model's
size. Names, config and tokenizer are transformers' own reading of the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from specctl.errors import ModelFileError
from specctl.store import gguf_screen, gguf_tokenizer, screen
from specctl.store.gguf_screen import GgufHeader, GgufTensor
from specctl.store.progress import Progress, bar

if TYPE_CHECKING:
    import numpy as np
    import torch

_ROWS = 8192  # of a vocabulary-sized matrix dequantised at a time
_SAME = 0.97  # cosine above which head and embedding are one matrix, quantised twice


def convert(source: Path, destination: Path, progress: Progress) -> None:
    """Fill the empty folder `destination`; after an error the caller removes it.

    Raises ModelFileError, OSError.
    """
    header = gguf_screen.read(source)
    try:
        config = _config(source, header)
        parts = _Parts(source, header, config)
        if parts.tied:
            config.tie_word_embeddings = True
        _write_weights(destination / "model.safetensors", parts, progress)
        config.save_pretrained(destination)
        gguf_tokenizer.write_generation_config(destination, header, config)
        gguf_tokenizer.write_tokenizer(source, destination, header, progress)
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ModelFileError(
            f"transformers cannot read `{source.name}`: {reason}", hint="take the same model as safetensors"
        ) from error


def _config(source: Path, header: GgufHeader) -> Any:
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    config.dtype = torch.bfloat16
    screen.model_type(config.model_type, source.name)
    return config


def _names(architecture: str, n_layers: int, ours: Iterable[str]) -> dict[str, str]:
    """From llama.cpp's tensor names to `ours`."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    translate = get_tensor_name_map(kind, n_layers)
    names = {}
    for name in ours:
        stem, _, suffix = name.rpartition(".")
        theirs = translate.get_name(stem)
        if theirs is not None:
            names[f"{theirs}.{suffix}"] = name
    return names


class _Parts:
    """The tensors under the model's own names, complete, in the order they will be written."""

    def __init__(self, source: Path, header: GgufHeader, config: Any) -> None:
        import numpy as np
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        # Untyped code is called through Any: mypy's view of it depends on its cache.
        causal: Any = AutoModelForCausalLM
        processor: Any = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
        with torch.device("meta"):
            model = causal.from_config(config)
        config.architectures = [type(model).__name__]
        self._processor = processor(config=config.to_dict())
        self._data: np.ndarray[Any, Any] = np.memmap(source, dtype=np.uint8, mode="r")
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        names = _names(header.architecture, config.num_hidden_layers, self.shapes)
        by_name = {names[tensor.name]: tensor for tensor in header.tensors if tensor.name in names}
        self.tied = config.tie_word_embeddings or self._is_one_matrix(by_name)
        if self.tied:
            self._tie(by_name)
        self._check_complete(by_name, {tensor.name for tensor in header.tensors} - names.keys(), source.name)
        self.tensors = dict(sorted(by_name.items()))

    def pieces(self, tensor: GgufTensor) -> Iterator[torch.Tensor]:
        """The tensor in bf16, in one piece, or row by row if it is large."""
        import torch

        step = _ROWS if len(tensor.shape) == 2 and tensor.shape[0] > 2 * _ROWS else tensor.shape[0]
        for start in range(0, tensor.shape[0], step):
            weights = self._dequantised(tensor, start, min(start + step, tensor.shape[0]))
            processed = self._processor.process(weights=weights, name=tensor.name)
            weights = processed.weights
            yield torch.from_numpy(weights.copy()).to(torch.bfloat16)

    def _dequantised(self, tensor: GgufTensor, start: int, stop: int) -> np.ndarray[Any, Any]:
        from gguf import GGMLQuantizationType, dequantize

        row_bytes = tensor.n_bytes // tensor.shape[0]
        first = tensor.offset + start * row_bytes
        data = self._data[first : first + (stop - start) * row_bytes]
        kind = GGMLQuantizationType(tensor.ggml_type)
        shape = (stop - start, *tensor.shape[1:])
        if len(shape) == 1:
            return dequantize(data, kind).reshape(shape)
        return dequantize(data.reshape(*shape[:-1], -1), kind)

    def _is_one_matrix(self, by_name: dict[str, GgufTensor]) -> bool:
        """Whether the head is the embedding again in another quantisation, as llama.cpp likes to write it."""
        import numpy as np

        head, embedding = by_name.get("lm_head.weight"), by_name.get("model.embed_tokens.weight")
        if head is None or embedding is None or head.shape != embedding.shape:
            return False
        rows = min(512, head.shape[0])
        a = self._dequantised(head, 0, rows).ravel()
        b = self._dequantised(embedding, 0, rows).ravel()
        return float(a @ b) > _SAME * float(np.linalg.norm(a) * np.linalg.norm(b))

    @staticmethod
    def _tie(by_name: dict[str, GgufTensor]) -> None:
        """Keep the finer of the two copies, under the embedding's name."""
        head = by_name.pop("lm_head.weight", None)
        embedding = by_name.get("model.embed_tokens.weight")
        if head is not None and (embedding is None or head.n_bytes >= embedding.n_bytes):
            by_name["model.embed_tokens.weight"] = head

    def _check_complete(self, by_name: dict[str, GgufTensor], unused: set[str], where: str) -> None:
        needed = set(self.shapes) - ({"lm_head.weight"} if self.tied else set())
        missing = sorted(needed - by_name.keys())
        wrong = sorted(name for name, tensor in by_name.items() if tensor.shape != self.shapes[name])
        odd = missing or sorted(unused) or wrong
        if odd:
            raise ModelFileError(
                f"`{where}` does not hold the weights its config asks for, `{odd[0]}` for one",
                hint="take another copy of the file, or the same model as safetensors",
            )


def _write_weights(path: Path, parts: _Parts, progress: Progress) -> None:
    """The safetensors layout: header length, header, then the tensors end to end."""
    import torch

    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in parts.tensors.items():
        end = position + 2 * tensor.elements
        entries[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out, bar(progress, "converting to safetensors (bf16)", position):
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in parts.tensors.values():
            for piece in parts.pieces(tensor):
                _write(out, piece.view(torch.uint8))
                progress.advance(2 * piece.numel())


def _write(out: BinaryIO, octets: torch.Tensor) -> None:
    out.write(octets.contiguous().numpy().data)
