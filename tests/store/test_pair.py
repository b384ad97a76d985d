from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from store_fakes import TOKENS

from specctl.errors import MachineError, ModelFileError, PairError
from specctl.store import memory, pair, vocabulary

MakeModel = Callable[..., Path]


def check(target: Path, draft: Path | None, max_tokens: int = 64) -> pair.PairReport:
    return pair.check(target, draft, max_tokens=max_tokens)


def test_good_pair(make_model: MakeModel) -> None:
    report = check(make_model("target"), make_model("draft", hidden_size=4))
    assert (report.problems, report.warnings) == ((), ())
    report.refuse()


def test_lone_target(make_model: MakeModel) -> None:
    assert check(make_model(), None).problems == ()


def test_padded_vocabularies_are_fine(make_model: MakeModel) -> None:
    report = check(make_model("target", vocab_size=64), make_model("draft", vocab_size=16))
    assert (report.problems, report.warnings) == ((), ())


def test_one_swapped_id_is_not(make_model: MakeModel) -> None:
    swapped = [*TOKENS[:3], "b", "a", *TOKENS[5:]]
    report = check(make_model("target"), make_model("draft", tokens=swapped))
    assert len(report.problems) == 1
    assert "2 of 10 shared ids differ, id 3 is 'a' and 'b'" in report.problems[0]
    with pytest.raises(PairError, match="different vocabularies"):
        report.refuse()


def test_draft_that_lacks_a_row_for_a_target_token(make_model: MakeModel) -> None:
    report = check(make_model("target"), make_model("draft", tokens=TOKENS[:8], vocab_size=8))
    assert report.problems == ("the draft cannot read 2 of the target's tokens: it knows 8 ids",)


def test_added_token_warns(make_model: MakeModel) -> None:
    report = check(make_model("target"), make_model("draft", tokens=[*TOKENS, "<think>"]))
    assert report.problems == ()
    assert "0 tokens are only the target's, 1 only the draft's" in report.warnings[0]


def test_special_in_one_only_warns(make_model: MakeModel) -> None:
    report = check(make_model("target"), make_model("draft", special=("<pad>", "<end>")))
    assert any("special in one model only, '<start>'" in warning for warning in report.warnings)


def test_other_end_token_warns(make_model: MakeModel) -> None:
    report = check(make_model("target"), make_model("draft", eos_token_id=0))
    assert report.problems == ()
    assert "the target ends with <end>, the draft with <pad>" in report.warnings[0]


def test_missing_templates_warn(make_model: MakeModel) -> None:
    bare = make_model("bare", template=None)
    assert "no chat template" in check(bare, None).warnings[0]
    assert "the draft has no chat template" in check(make_model("target"), bare).warnings[0]


def test_templates_are_compared_by_what_they_write(make_model: MakeModel) -> None:
    target = make_model("target")
    same = make_model(
        "same", template="{%- for m in messages -%}<start>{{ m['content'] }}<end>{%- endfor -%}"
    )
    other = make_model("other", template="{% for m in messages %}<start>{{ m.role }}<end>{% endfor %}")
    refuses = make_model("refuses", template="{{ raise_exception('no') }}")
    assert check(target, same).warnings == ()
    assert "write a conversation differently" in check(target, other).warnings[0]
    assert "write a conversation differently" in check(target, refuses).warnings[0]


def test_template_is_sandboxed(make_model: MakeModel) -> None:
    hostile = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert vocabulary.render(vocabulary.read(make_model(template=hostile)), "x") is None


def test_other_merges_warn(make_model: MakeModel) -> None:
    target, draft = make_model("target"), make_model("draft")
    text = (draft / "tokenizer.json").read_text()
    (draft / "tokenizer.json").write_text(text.replace('[["a", "b"], ["ab", "c"]]', "[]"))
    assert "cut the same text into different tokens" not in str(check(target, draft).warnings)
    probe = "abc"
    assert vocabulary.cut(target, probe) != vocabulary.cut(draft, probe)


def test_contexts(make_model: MakeModel) -> None:
    target, draft = make_model("target"), make_model("draft", max_position_embeddings=32)
    assert check(target, draft, max_tokens=32).warnings == ()
    assert "the draft's context is 32 tokens" in check(target, draft, max_tokens=33).warnings[0]
    assert check(target, None, max_tokens=129).problems == (
        "129 tokens are more than the target's context of 128",
    )


def test_memory(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    report = pair.check(make_model(), None, max_tokens=64, batch_size=2, dtype_bytes=4)
    assert report.memory.weights == 10 * 4
    assert report.memory.caches == 2 * 2 * 1 * 4 * 64 * 2 * 4
    assert not report.memory.fits
    with pytest.raises(MachineError, match="not enough memory"):
        report.refuse()
    monkeypatch.setattr(memory, "available", lambda: None)
    check(make_model("other"), None).refuse()


def test_control_group_limits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert memory.available() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     4 kB\n")
    assert memory.available() == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert memory.available() == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == 4096


@pytest.mark.parametrize(
    "content", ["{}", '{"model": {}}', '{"model": {"vocab": {}}}', "[]", "\x00", '{"model":']
)
def test_broken_tokenizer(make_model: MakeModel, content: str) -> None:
    folder = make_model()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFileError):
        check(folder, None)


def test_fingerprint_sees_ids_only(make_model: MakeModel) -> None:
    one = vocabulary.fingerprint(make_model("one"))
    assert vocabulary.fingerprint(make_model("two", special=(), template=None)) == one
    assert vocabulary.fingerprint(make_model("three", tokens=[*TOKENS[:8], "Ġ", "abc"])) != one
