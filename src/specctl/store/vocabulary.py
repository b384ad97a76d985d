"""What a model's tokenizer says about ids, read from its JSON files without building the tokenizer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from specctl.errors import ModelFileError
from specctl.store import strict_json

_MAX_TOKENIZER = 256 << 20


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens`: text by id; `digest`: of the tokenizer as a whole; `ends`: ids that end an answer."""

    tokens: dict[int, str]
    special: frozenset[int]
    digest: str
    template: str | None
    ends: frozenset[int]
    named: dict[str, str]

    def text(self, index: int) -> str:
        return self.tokens.get(index, str(index))


def read(folder: Path) -> Vocabulary:
    """Raises ModelFileError if there is no usable tokenizer."""
    raw = _tokenizer_json(folder)
    parsed = strict_json.loads(raw, f"{folder.name}/tokenizer.json", _MAX_TOKENIZER)
    settings = _json(folder / "tokenizer_config.json")
    texts = {key: _text(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token")}
    named = {key: text for key, text in texts.items() if text}
    try:
        tokens = _tokens(parsed)
        return Vocabulary(
            tokens=tokens,
            special=frozenset(token["id"] for token in parsed.get("added_tokens") or [] if token["special"]),
            digest=hashlib.sha256(raw).hexdigest(),
            template=_template(folder, settings),
            ends=_ends(folder, tokens, named),
            named=named,
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelFileError(
            f"the tokenizer files of `{folder.name}` are broken: {ascii(str(error))[1:-1][:100]}",
            hint="pull the model again",
        ) from error


def render(words: Vocabulary, content: str) -> str | None:
    """One user turn in the model's chat template; None if the template refuses it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: "today"
    try:
        return environment.from_string(words.template or "").render(
            messages=[{"role": "user", "content": content}], add_generation_prompt=True, **words.named
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError):
        return None


def cut(folder: Path, text: str) -> list[int]:
    """The ids of a text, special tokens in it recognised, none added."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(_tokenizer_json(folder).decode())
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def fingerprint(folder: Path) -> str:
    """sha256 over the sorted (id, token) list: equal for two copies that mean the same by every id."""
    digest = hashlib.sha256()
    for index, token in sorted(read(folder).tokens.items()):
        digest.update(json.dumps([index, token], separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _json(path: Path, max_bytes: int = strict_json.MAX_BYTES) -> dict[str, Any]:
    if not path.exists():
        return {}
    return strict_json.loads(path.read_bytes(), f"{path.parent.name}/{path.name}", max_bytes)


def _tokens(parsed: dict[str, Any]) -> dict[int, str]:
    model = parsed.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # Unigram: the id is the place in the list
        tokens = {index: str(entry[0]) for index, entry in enumerate(vocab)}
    elif isinstance(vocab, dict):
        tokens = {index: token for token, index in vocab.items()}
    else:
        raise ValueError("no list of tokens")
    for token in parsed.get("added_tokens") or []:
        tokens[token["id"]] = token["content"]
    if not tokens or not all(type(index) is int and index >= 0 for index in tokens):
        raise ValueError("no usable tokens")
    return tokens


def _tokenizer_json(folder: Path) -> bytes:
    """`tokenizer.json`, or the same made by transformers for repositories that ship only `tokenizer.model`."""
    path = folder / "tokenizer.json"
    if path.exists():
        return path.read_bytes()
    if not (folder / "tokenizer.model").exists():
        raise ModelFileError(f"`{folder}` has no `tokenizer.json`", hint="pull the model again")
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str()).encode()
    except (ValueError, OSError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ModelFileError(
            f"transformers cannot read the tokenizer of `{folder.name}`: {reason}"
        ) from error


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    separate = folder / "chat_template.jinja"
    if separate.exists():
        return separate.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _ends(folder: Path, tokens: dict[int, str], named: dict[str, str]) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        value = _json(folder / name).get("eos_token_id")
        if value is not None:
            return frozenset(value if isinstance(value, list) else [value])
    return frozenset(index for index, token in tokens.items() if token == named.get("eos_token"))


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
