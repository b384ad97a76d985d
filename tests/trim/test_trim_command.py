"""`specctl trim` from prompts to a folder that drafts, on a model made in the test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fake_tokenizers import SPECIAL, byte_tokenizer
from fakes import tiny_module
from specctl.errors import ModelFileError, RequestError
from specctl.models import trimmed
from specctl.store import vocabulary
from specctl.trim import calibration, export, gather, job, source, write
from specctl.trim.calibration import Calibration, Sample, Settings
from specctl.trim.gather import Entry

TOKENIZER = byte_tokenizer(["the ", "sky", " is ", "blue"])
END = TOKENIZER.convert_tokens_to_ids(SPECIAL[2])
SETTINGS = Settings("tiny", "t", "answers of the target", "self", 8, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trim") / "model"
    module = tiny_module(
        dtype=torch.float32, native=True, vocab_size=300, eos_token_id=END, tie_word_embeddings=True
    )
    module.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def masses(rows: int = 300) -> Tensor:
    """Nothing but the answers says anything."""
    return torch.zeros(2, rows, dtype=torch.float64)


def samples(n: int) -> list[Sample]:
    return [Sample(i, "ab"[i % 2], (1, 2), (40 + i, 41, END), calibration.digest(f"p{i}")) for i in range(n)]


def test_ends_specials_and_the_template_always_stay(model: Path) -> None:
    must = source.must_keep([model])
    words = vocabulary.read(model)
    assert words.special | words.ends <= must
    assert END in must
    assert set(TOKENIZER("assistant\n", add_special_tokens=False).input_ids) <= must
    made = job.plan(model, model, samples(10), masses())
    path = job.finish(model.parent / "cut", made, made.covered([64])[0], SETTINGS)
    ids, facts = trimmed.read_map(path.parent)
    assert must <= set(ids.tolist())
    assert {40, 41} <= set(ids.tolist())
    assert len(ids) == 64
    assert facts["origin"] == "answers of the target"
    weight = source.rows(made.draft, torch.arange(300)).weight
    assert torch.equal(source.rows(made.draft, ids).weight, weight[ids])


def test_an_export_speaks_of_the_folders_own_map(model: Path, tmp_path: Path) -> None:
    kept = Calibration(tmp_path / "x", SETTINGS)
    kept.extend(samples(6), lambda sample: None)
    made = job.plan(model, model, kept.ordered(), masses())
    job.finish(tmp_path / "x", made, made.covered([64])[0], SETTINGS)
    listed = torch.load(job.export(tmp_path / "x", "token-map"), weights_only=True)
    assert torch.equal(export.from_token_map(listed), job.described(tmp_path / "x", model)[0])
    assert listed[:2].tolist() == sorted([41, END])
    (tmp_path / "x" / calibration.FILE).unlink()
    with pytest.raises(RequestError, match="no calibration"):
        job.export(tmp_path / "x", "d2t")


# Calibrations ---------------------------------------------------------------------------------------------------


def test_a_killed_calibration_goes_on(tmp_path: Path) -> None:
    first = Calibration(tmp_path, SETTINGS)
    first.extend(samples(3), lambda sample: None)
    path = tmp_path / calibration.FILE
    path.write_bytes(path.read_bytes() + b'{"index":3,"categ')
    again = Calibration(tmp_path, SETTINGS)
    assert again.ordered() == samples(3)
    assert again.missing(range(5)) == [3, 4]
    again.extend(samples(5)[3:], lambda sample: None)
    assert Calibration(tmp_path, SETTINGS).ordered() == samples(5)


def test_another_calibration_is_never_gone_on_with(tmp_path: Path) -> None:
    Calibration(tmp_path, SETTINGS).extend(samples(3), lambda sample: None)
    other = Settings("tiny", "t", "raw text", "self", 8, 0)
    with pytest.raises(RequestError, match="other settings"):
        Calibration(tmp_path, other)
    assert Calibration(tmp_path, other, force=True).ordered() == []


def test_a_file_that_only_has_the_name_of_a_calibration_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / calibration.FILE
    path.write_text('{"prompt": "my own"}\n')
    with pytest.raises(RequestError, match="cannot be read"):
        Calibration(tmp_path, SETTINGS)
    assert path.read_text() == '{"prompt": "my own"}\n'


def test_evaluation_prompts_that_were_calibrated_with_are_refused() -> None:
    known = [one.text for one in samples(4)]
    calibration.refuse_shared(known, [calibration.digest("new")], "new.jsonl")
    with pytest.raises(RequestError, match=r"`new\.jsonl` shares 1 prompts"):
        calibration.refuse_shared(
            known, [calibration.digest(" p2\n"), calibration.digest("new")], "new.jsonl"
        )


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    write.require_free(tmp_path / "new", force=False)
    (tmp_path / trimmed.FILE).touch()
    with pytest.raises(RequestError, match="already holds"):
        write.require_free(tmp_path, force=False)
    write.require_free(tmp_path, force=True)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RequestError, match="other files"):
        write.require_free(tmp_path, force=True)


def test_a_new_head_takes_forms_of_the_old_one_with_it(model: Path, tmp_path: Path) -> None:
    """An export of other rows would map drafts to other tokens."""
    kept = Calibration(tmp_path, SETTINGS)
    kept.extend(samples(6), lambda sample: None)
    made = job.plan(model, model, kept.ordered(), masses())
    small, large = made.covered([64, 128])
    job.finish(tmp_path, made, small, SETTINGS)
    exported = [job.export(tmp_path, form) for form in export.FILES]
    write.require_free(tmp_path, force=True)
    job.finish(tmp_path, made, large, SETTINGS)
    assert not any(path.exists() for path in exported)


def test_a_full_disk_leaves_nothing_half_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    made = job.plan(model, model, samples(6), masses())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        job.finish(tmp_path / "x", made, made.covered([64])[0], SETTINGS)
    assert list((tmp_path / "x").iterdir()) == []
    with pytest.raises(ModelFileError):
        trimmed.read_map(tmp_path / "x")


# Files ----------------------------------------------------------------------------------------------------------


def test_lines_are_prompts_or_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"turns": ["q"], "category": "c"}, {"answer": "sky"}, {"prompt": "p", "answer": "blue"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = gather.entries(path)
    assert [(one.prompt, one.answer) for one in found] == [("q", None), ("", "sky"), ("p", "blue")]
    given = list(gather.given(TOKENIZER, found, END))
    assert [one.index for one in given] == [1, 2]
    assert given[0].answer == (*TOKENIZER("sky").input_ids, END)
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    assert [one.prompt for one in gather.entries(tmp_path / "b.txt")] == ["one", "two"]


@pytest.mark.parametrize("change", [lambda one: one, gather.as_text])
def test_calibrated_lines_are_known_again(change: Callable[[Entry], Entry]) -> None:
    """By their prompt, or by their answer where they have no other, whatever was counted of them."""
    found = [Entry("a", "p", "blue"), Entry("a", "", "sky")]
    known = [one.text for one in gather.given(TOKENIZER, map(change, found), END)]
    assert known == [calibration.digest("p"), calibration.digest("sky")]
    assert Entry("a", "", "blue").known_by not in known


@pytest.mark.parametrize(
    ("line", "says"),
    [("{", "is not JSON"), ("[]", "neither"), ('{"prompt": 3}', "neither"), ("", "is empty")],
)
def test_bad_lines_are_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(RequestError, match=says):
        gather.entries(path)


BAD = {
    ("--size", "0", "-o", "x"): "keeps nothing",
    ("--size", "many", "-o", "x"): "not a number of rows",
    ("--size", "8k", "--auto", "-o", "x"): "exclude each other",
    ("--coverage", "1.5", "-o", "x"): "`--coverage 1.5` is not a share",
    ("--size", "301", "-o", "x"): "`--size 301` is not possible",
    ("--size", "2", "-o", "x"): "`--size 2` is below the",
    ("--answers", "text", "-o", "x"): "needs a file",
    ("--report", "no/c.svg", "-o", "x"): "there is no folder for `no/c.svg`",
    ("--export", "onnx", "-o", "x"): "is unknown",
    ("--export", "d2t"): "needs the folder",
    ("--export", "d2t", "-o", "nowhere"): "there is no file `nowhere/trim.safetensors`",
}


@pytest.mark.parametrize("argv", BAD, ids=" ".join)
def test_bad_requests_are_one_line(
    argv: tuple[str, ...],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is loaded or written."""
    from specctl.cli.main import main

    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(model.parent / "home" / name))
    assert main(["trim", "--target", str(model), *argv]) == 2
    said = capsys.readouterr().err
    assert BAD[argv] in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_from_prompts_to_a_folder_that_drafts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts answered, half of them by a run that is gone on with; cut; checked; and drafted with."""
    from specctl.cli.main import main
    from specctl.cli.trim_models import Models

    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / "home" / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(6)))
    Path("new.jsonl").write_text(json.dumps({"prompt": "say more"}) + "\n")
    common = ["trim", "--target", str(model), "--draft", str(model)]
    made = [*common, "--calibrate", "p.jsonl", "-n", "6", "--size", "128", "-o", "cut", "--json"]
    assert main(made) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == 128
    assert told["curve"][-1]["covered"] == 1
    assert main(made) == 2
    assert "already holds" in capsys.readouterr().err
    answers = Path("cut/calibration.jsonl").read_bytes()
    with monkeypatch.context() as again:
        again.setattr(Models, "session", None)
        assert main([*made[:-1], "--force", "-q"]) == 0, "another cut needs no model"
    assert Path("cut/calibration.jsonl").read_bytes() == answers, "nothing is generated twice"
    capsys.readouterr()
    assert main([*common, "--check", "cut", "--prompts", "new.jsonl", "-n", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["categories"][-1]["category"] == "all"
    assert main([*common, "--check", "cut", "--prompts", "p.jsonl"]) == 2
    assert "shares 6 prompts" in capsys.readouterr().err
    other = tmp_path / "other"
    module = tiny_module(dtype=torch.float32, native=True, vocab_size=300, eos_token_id=END)
    module.save_pretrained(other)
    byte_tokenizer(["grass ", "green"]).save_pretrained(other)
    assert main(["trim", "--target", str(other), "--check", "cut", "--prompts", "new.jsonl"]) == 2
    assert "another tokenizer than that of `other`" in capsys.readouterr().err

    Path("t.yaml").write_text(
        f"schema: 1\nabout: x\ntarget: {model}\ndraft:\n  model: {model}\n  trim: cut\n"
        "drafter:\n  method: draft-model\n"
    )
    assert main(["run", "-p", "t.yaml", "-n", "12", "--json", "hello"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert main(["run", "-p", "plain", "--target", str(model), "-n", "12", "--json", "hello"]) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == drafted["token_ids"]
    assert drafted["stats"]["drafted"] > 0
