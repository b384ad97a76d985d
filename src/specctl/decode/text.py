"""Token ids to text, as it streams: bytes that wait for their character, stop strings that must not show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from tokenizers.decoders import DecodeStream

from specctl.decode.draft import Request
from specctl.events import Branched, Drafted, Emitted, Event, Finished, Verified

_UNDECODABLE = "\ufffd"


class Streamer:
    """One answer's text, piece by piece; the pieces joined are `final_text` of its tokens."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._special = {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._tokens: list[int] = []
        self._run: list[int] = []
        self._decoded = ""
        self._shown = 0

    def push(self, tokens: Sequence[int]) -> str:
        """The text these tokens add that can be shown already."""
        backend = self._tokenizer.backend_tokenizer
        self._tokens += tokens
        for token in tokens:
            name = self._tokenizer.convert_ids_to_tokens(token)
            if name is None or token in self._special:
                continue
            self._run.append(token)
            # Byte tokens side by side are one unit: a bad byte takes back the characters before it.
            if not _is_byte(name):
                self._decoded += self._stream.step(backend, self._run) or ""
                self._run = []
        return self._show(len(self._decoded) - self._held_back())

    def close(self) -> str:
        """What is left to show once no token can follow: held-back text, incomplete characters."""
        text = final_text(self._tokenizer, self._tokens, self._stop)
        if text.startswith(self._decoded[: self._shown]):
            self._decoded = text
        return self._show(len(self._decoded))

    def _show(self, end: int) -> str:
        new = self._decoded[self._shown : max(end, self._shown)]
        self._shown += len(new)
        return new

    def _held_back(self) -> int:
        """Length of the end of the text that is a stop string, or may become one."""
        found = [at for stop in self._stop if (at := self._decoded.find(stop, self._shown)) >= 0]
        if found:
            return len(self._decoded) - min(found)
        partial = (
            size
            for stop in self._stop
            for size in range(min(len(stop) - 1, len(self._decoded)), 0, -1)
            if self._decoded.endswith(stop[:size])
        )
        return max(partial, default=0)


def final_text(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """The text of a whole answer: special tokens left out, cut before the first stop string."""
    text = render(tokenizer, tokens)
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def render(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def annotate(events: Iterable[Event], tokenizer: Any, requests: Sequence[Request]) -> Iterator[Event]:
    """Fill in the events' text fields: each token's own look, and the answer's text as it may be shown."""
    answers: dict[int, Streamer] = {}  # of those who are not done
    for event in events:
        match event:
            case Drafted():
                yield replace(event, pieces=tuple(piece(tokenizer, token) for token in event.tokens))
            case Branched():
                yield replace(event, pieces=tuple(piece(tokenizer, token) for _, token in event.keys))
            case Verified():
                yield replace(event, bonus_piece=piece(tokenizer, event.bonus))
            case Emitted():
                if event.row not in answers:
                    answers[event.row] = Streamer(tokenizer, requests[event.row].stop)
                yield replace(event, text=answers[event.row].push(event.tokens))
            case Finished():
                answer = answers.pop(event.row, None)
                yield replace(event, text=answer.close() if answer else "")
            case _:
                yield event


def piece(tokenizer: Any, token: int) -> str:
    """One token as it looks alone: a fragment of a character is shown as its bytes, `\\xe2`."""
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if _UNDECODABLE not in text:
        return text
    name = tokenizer.convert_ids_to_tokens(token) or ""
    if _is_byte(name):
        return "\\x" + name[3:5].lower()
    known = _byte_of_character()
    if all(character in known for character in name):
        return bytes(known[character] for character in name).decode("utf-8", errors="backslashreplace")
    return text


def _is_byte(name: str) -> bool:
    """Whether it is one of the 256 tokens that SentencePiece vocabularies spell unknown characters with."""
    return name.startswith("<0x")


@cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
