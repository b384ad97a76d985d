"""Prompts to token ids. What a user writes never becomes a control token of the chat template."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from specctl.errors import RequestError

Message = dict[str, str]
"""`role` and `content`."""


def encode_raw(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """The text as it stands; control tokens written in it count as such. Raises RequestError when empty."""
    _require_text(prompt)
    ids = tokenizer(prompt).input_ids
    if not ids:
        raise RequestError("the prompt has no tokens", hint="give a prompt that is not only white space")
    return tuple(ids)


def encode_chat(tokenizer: Any, prompt: str, system: str | None) -> tuple[int, ...]:
    """One user turn in the model's chat template, ready for the answer. Raises what `encode_messages` does."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return encode_messages(tokenizer, [*messages, {"role": "user", "content": prompt}])


def encode_messages(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """A conversation in the model's chat template, ready for the next answer.

    Raises RequestError when the last message is empty, and for a template that is missing or refuses the messages.
    """
    _require_text(messages[-1]["content"])
    if not tokenizer.chat_template:
        raise RequestError("the model has no chat template", hint="use `--raw` to continue the text as it is")
    try:
        return tuple(_encode(tokenizer, messages))
    except (TemplateError, ValueError, TypeError) as error:
        raise RequestError(
            f"the model's chat template refuses the prompt: {error}",
            hint="try without `--system`, or `--raw`",
        ) from None


def _encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    special = [token for token in tokenizer.get_added_vocab() if token]
    contents = [message["content"] for message in messages]
    if not any(token in content for token in special for content in contents):
        return _tokens(tokenizer, _rendered(tokenizer, messages))
    # Look-alikes of control tokens: render with stand-ins, then tokenise each text apart, as plain text.
    # Templates may say a text twice, in another order, or leave it out.
    texts = {f"text{secrets.token_hex(16)}": content for content in contents}
    masked = [{**message, "content": name} for message, name in zip(messages, texts, strict=True)]
    ids: list[int] = []
    for part in re.split(f"({'|'.join(texts)})", _rendered(tokenizer, masked)):
        if part in texts:
            ids += tokenizer(texts[part], add_special_tokens=False, split_special_tokens=True).input_ids
        else:
            ids += _tokens(tokenizer, part)
    return ids


def _rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return text


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _require_text(prompt: str) -> None:
    if not prompt.strip():
        raise RequestError("the prompt is empty", hint='give one, e.g. `specctl run "Why is the sky blue?"`')
