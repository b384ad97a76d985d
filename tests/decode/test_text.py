"""Text as it streams is the text of the whole answer, whatever the tokens are and however they come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers.decoders import DecodeStream

from fake_tokenizers import SPECIAL, byte_tokenizer
from specctl.decode import text as text_module
from specctl.decode.draft import Request
from specctl.decode.text import Streamer, annotate, final_text, piece
from specctl.events import Branched, Drafted, Emitted, Event, Finished, Prefilled, Timed, Verified

BYTES = byte_tokenizer(["xSTy", "é!", "ST"])
END = BYTES.convert_tokens_to_ids(SPECIAL[2])


def byte_fallback_tokenizer() -> Any:
    """As Llama 2, Vicuna, Mistral and Gemma have it: words, and `<0xE2>` for bytes no word covers."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁a",
        "b",
        "▁",
        "é",
        "ST",
        "▁S",
        "T",
        "<s>",
    ]
    vocab = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


FALLBACK = byte_fallback_tokenizer()


def ids(text: str | bytes) -> list[int]:
    data = text.encode() if isinstance(text, str) else text
    names = {byte: name for name, byte in text_module._byte_of_character().items()}
    return [BYTES.convert_tokens_to_ids(names[byte]) for byte in data]


def stream(tokens: Sequence[int], stop: Sequence[str] = (), tokenizer: Any = BYTES) -> list[str]:
    """What is shown behind each token, and at the end."""
    streamer = Streamer(tokenizer, stop)
    return [*(streamer.push([token]) for token in tokens), streamer.close()]


def test_split_characters_wait_until_they_are_whole() -> None:
    assert stream(ids("aé€😀z")) == ["a", "", "é", "", "", "€", "", "", "", "😀", "z", ""]


def test_what_never_becomes_whole_is_shown_at_the_end() -> None:
    assert stream(ids(b"a\xe2\x82")) == ["a", "", "", "�"]
    assert "".join(stream(ids(b"a\xff\xfeb\xc3"))) == "a��b�"


def test_special_tokens_are_left_out() -> None:
    specials = [BYTES.convert_tokens_to_ids(name) for name in SPECIAL]
    assert "".join(stream([specials[1], *ids("hi"), specials[0], *ids("!"), END])) == "hi!"
    assert "".join(stream([*ids(b"\xe2\x82"), END, *ids(b"\xac")])) == "€", "nor do they cut characters"


def test_ids_beyond_the_vocabulary_have_no_text() -> None:
    """Padded vocabularies: the model has ids its tokenizer does not know."""
    beyond = len(BYTES) + 5
    assert "".join(stream([*ids("a"), beyond, *ids("b"), beyond])) == "ab"
    assert piece(BYTES, beyond) == ""


STOPS: dict[str, tuple[str, list[int], tuple[str, ...]]] = {
    "across-tokens": ("ab", ids("abSTOPcd"), ("STOP",)),
    "within-a-token": ("ab x", [*ids("ab "), BYTES.convert_tokens_to_ids("xSTy"), *ids("z")], ("ST",)),
    "first-of-two": ("ab", ids("abSTcdUV"), ("UV", "ST")),
    "one-in-the-other": ("ab", ids("abSTOP"), ("TOP", "STOP", "STO")),
    "false-start": ("abSTO", ids("abSTOSTOP"), ("STOP",)),
    "overlap": ("aab", ids("aabaac"), ("aac",)),
    "whole-answer": ("", ids("STOP"), ("STOP",)),
    "non-ascii": ("a", ids("a€b"), ("€",)),
    "never-completed": ("abSTO", ids("abSTO"), ("STOP",)),
    "then-end-of-sequence": ("abST", [*ids("abST"), END], ("STOP",)),
}


@pytest.mark.parametrize("name", list(STOPS))
def test_stop_strings_and_their_beginnings_never_show(name: str) -> None:
    expected, tokens, stop = STOPS[name]
    pieces = stream(tokens, stop)
    assert "".join(pieces) == expected
    shown = ""
    for one in pieces:
        shown += one
        assert expected.startswith(shown), "something was shown that had to be taken back"
    assert final_text(BYTES, tokens, stop) == expected


def test_held_back_text_comes_as_soon_as_it_is_harmless() -> None:
    assert stream(ids("aSTx"), ("STOP",)) == ["a", "", "", "STx", ""]
    assert stream(ids("aST"), ("STOP",)) == ["a", "", "", "ST"]


def random_tokens(chance: random.Random, tokenizer: Any) -> list[int]:
    """Mostly bytes of `€`, words, control tokens, ids beyond the vocabulary; seldom valid UTF-8."""
    euro = tokenizer.convert_tokens_to_ids(
        ["<0xE2>", "<0x82>", "<0xAC>"] if tokenizer is FALLBACK else ["â", "Ĥ", "¬"]
    )
    size = len(tokenizer)
    return [
        chance.choice([chance.randrange(size), chance.randrange(size - 12, size + 3), *euro])
        for _ in range(chance.randrange(1, 14))
    ]


def mismatches(tokenizer: Any, n: int) -> int:
    """Random answers whose streamed text is not their final text, or that break the streamer."""
    chance = random.Random(0)
    wrong = 0
    for _ in range(n):
        tokens = random_tokens(chance, tokenizer)
        stop = chance.choice([(), ("ST",), ("S", "Tx"), (" a",), ("€",), ("�",)])
        streamer = Streamer(tokenizer, stop)
        border = chance.randrange(len(tokens))
        try:
            pushed = streamer.push(tokens[:border]) + streamer.push(tokens[border:]) + streamer.close()
        except Exception:
            wrong += 1
            continue
        wrong += pushed != final_text(tokenizer, tokens, stop)
    return wrong


@pytest.mark.parametrize("tokenizer", [BYTES, FALLBACK], ids=["byte-level", "byte-fallback"])
def test_random_tokens_stream_to_their_final_text(tokenizer: Any) -> None:
    assert mismatches(tokenizer, 1500) == 0


def test_planted_token_by_token_decoding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of byte-fallback vocabularies fed one by one: shown characters would have to be taken back."""
    monkeypatch.setattr(text_module, "_is_byte", lambda name: False)
    assert mismatches(FALLBACK, 1500) > 0


def test_planted_decoding_of_lone_tokens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lone:
        def __init__(self, skip_special_tokens: bool) -> None: ...

        def step(self, backend: Any, tokens: list[int]) -> str:
            return str(backend.decode(tokens))

    assert DecodeStream is not Lone
    monkeypatch.setattr(text_module, "DecodeStream", Lone)
    assert mismatches(BYTES, 300) > 0


# Pieces ---------------------------------------------------------------------------------------------------------


def test_a_piece_shows_fragments_as_bytes() -> None:
    assert [piece(BYTES, token) for token in ids("a€")] == ["a", "\\xe2", "\\x82", "\\xac"]
    assert piece(BYTES, BYTES.convert_tokens_to_ids("xSTy")) == "xSTy"
    assert [piece(FALLBACK, FALLBACK.convert_tokens_to_ids(name)) for name in ("<0xE2>", "b", "é")] == [
        "\\xe2",
        "b",
        "é",
    ]


def test_a_piece_shows_control_tokens() -> None:
    assert piece(BYTES, END) == "<|im_end|>"


def test_a_piece_that_is_the_replacement_character_itself_is_not_bytes() -> None:
    tokenizer = byte_tokenizer(["�"])
    assert piece(tokenizer, 256) == "�".encode().decode("utf-8")


# Events ---------------------------------------------------------------------------------------------------------


def test_annotate_fills_in_each_rows_text() -> None:
    """Two rows in turn; one is cut off by a stop string, the other in the middle of a character."""
    events: list[Event] = [
        Prefilled(0, 0, 0, (1,), 0.0),
        Drafted(0, 1, 0, tuple(ids("a€"))),
        Verified(0, 1, 0, 4, 1, ids("b")[0]),
        Emitted(0, 1, 0, tuple(ids("ab"))),
        Branched(0, 1, 0, ((1, ids("b")[0]), (0, ids("€")[0])), True),
        Emitted(1, 1, 0, tuple(ids("xy"))),
        Timed(1, 0, 2, 0.0, 0.0, 0.0),
        Emitted(0, 2, 0, tuple(ids("STOP"))),
        Finished(0, 2, 0, "stop"),
        Emitted(1, 2, 0, tuple(ids(b"\xe2\x82"))),
        Finished(1, 2, 0, "length"),
    ]
    requests = [Request((1,), 9, stop=("STOP",)), Request((1,), 9)]
    done = list(annotate(events, BYTES, requests))
    assert [type(event) for event in done] == [type(event) for event in events]
    assert [event.pieces for event in done if isinstance(event, Drafted)] == [
        ("a", "\\xe2", "\\x82", "\\xac")
    ]
    assert [event.pieces for event in done if isinstance(event, Branched)] == [("b", "\\xe2")]
    assert [event.bonus_piece for event in done if isinstance(event, Verified)] == ["b"]
    texts = [(event.row, event.text) for event in done if isinstance(event, Emitted | Finished)]
    assert texts == [(0, "ab"), (1, "xy"), (0, ""), (0, ""), (1, ""), (1, "�")]
