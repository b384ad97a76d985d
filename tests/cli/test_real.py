"""`specctl run` on the real default model, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from specctl.decode.stats import Stats
from specctl.events import Emitted, Finished, from_json

pytestmark = pytest.mark.real


def run(model: Path, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "specctl", "run", "--target", str(model), "-n", "24", *argv]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=300, check=False)


PROMPT = "Repeat after me, five times: one two three four, one two three four, one two three four"


def test_text_json_and_events_tell_one_story_and_drafting_does_not_change_it(
    smollm2: Path, home: Path
) -> None:
    plain = run(smollm2, PROMPT, "-p", "plain")
    document = json.loads(run(smollm2, "-p", "ngram", "--json", stdin=PROMPT.encode()).stdout)
    lines = run(smollm2, PROMPT, "-p", "ngram", "--jsonl").stdout.splitlines()
    events = [from_json(json.loads(line)) for line in lines]
    stats = Stats()
    for event in events:
        stats.add(event)

    assert (plain.returncode, plain.stdout.decode()) == (0, document["text"] + "\n")
    assert plain.stderr.decode().startswith("24 tokens · ")
    assert (
        "".join(event.text for event in events if isinstance(event, Emitted | Finished)) == document["text"]
    )
    assert [token for event in events if isinstance(event, Emitted) for token in event.tokens] == document[
        "token_ids"
    ]
    for name in ("new_tokens", "rounds", "drafted", "accepted", "accepted_per_position"):
        assert stats.summary()[name] == document["stats"][name]
    assert document["stats"]["accepted"] > 0


def test_a_prompt_larger_than_the_context_is_refused(smollm2: Path, home: Path) -> None:
    done = run(smollm2, stdin=b"word " * 10_000)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: the prompt has ")
    assert done.stderr.count(b"\n") == 1
