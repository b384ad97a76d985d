"""`specctl verify-equivalence` from end to end: on a tiny model on disk, and on the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_tokenizers import byte_tokenizer
from fakes import tiny_module
from specctl.cli.main import main
from specctl.profile import files


@pytest.fixture
def tiny_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder small enough to be verified in seconds, and no other."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    module = tiny_module(
        dtype=torch.bfloat16, vocab_size=len(tokenizer), max_position_embeddings=2048, eos_token_id=2
    )
    folder = tmp_path / "tiny"
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abcabcabcabcabc\nThe quick brown fox.\nxyxyxyxyxyxyxy\n")
    return folder


def verify(
    folder: Path, capsys: pytest.CaptureFixture[str], *options: str, profile: str = "ngram"
) -> tuple[int, str, str]:
    prompts = str(folder.parent / "prompts.txt")
    argv = ["verify-equivalence", "-p", profile, "--target", str(folder), "--prompts", prompts, *options]
    code = main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def report(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, **more: Any) -> dict[str, Any]:
    code, out, _ = verify(folder, capsys, "--json", *options, **more)
    data: dict[str, Any] = json.loads(out)
    assert code == data["exit_code"]
    return data


def test_plain_decoding_passes(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verify(tiny_folder, capsys, "-n", "12", profile="plain")
    assert (code, err) == (0, "")
    first, head, row = out.splitlines()
    assert first == "PASS (G2, bit-exact bf16) 3/3: 3 exact; 0 violations; 0 accepted, 0 rejected"
    assert head.split()[:2] == ["profile", "verdict"]
    assert row.split()[:3] == ["plain", "EXACT", "3"]


def test_the_report_is_complete_and_repeats(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_folder.parent / "r.json"
    data = report(tiny_folder, capsys, "-n", "40", "-o", str(path))
    run = data["runs"][0]
    assert run["guarantee"] == "G2"
    assert [one["problems"] for one in run["sequences"]] == [[]] * 3
    assert run["settings"]["batch_size"] == 1
    assert run["coverage"]["drafted"] > 0
    assert run["draft_fidelity"]["unexplained"] == 0
    files = run["pair"]["target"]["sha256"]
    assert {len(digest) for digest in files.values()} == {64}
    assert "model.safetensors" in files
    assert run["tape_ref"] is None
    first = path.read_bytes()
    assert json.loads(first) == data
    report(tiny_folder, capsys, "-n", "40", "-o", str(path))
    assert path.read_bytes() == first


def test_a_planted_violation_is_shown_and_exits_with_1(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.decode import accept

    honest = accept.greedy

    def late(scores: Any, draft: Any, rows: Any, sampler: Any) -> Any:
        scores[:, 0, 65] += 1000 if len(rows[0].generated) == 5 else 0
        return honest(scores, draft, rows, sampler)

    monkeypatch.setitem(accept.ACCEPTORS, "greedy", late)
    code, out, _ = verify(tiny_folder, capsys, "-n", "12", profile="plain")
    assert code == 1
    assert out.startswith("FAIL (G2, bit-exact bf16) 0/3: 0 exact; 8 violations"), "three prompts, five turns"
    assert "DIVERGED: token 5 is 65 instead of" in out
    assert "token 5, round 6, slot 0" in out
    assert "\n  reference " in out
    assert "--replay case.json" in out

    assert report(tiny_folder, capsys, "-n", "12", profile="plain")["runs"][0]["tape_ref"] == "case.json"

    replayed = ["verify-equivalence", "--replay", "case.json"]
    assert main(replayed) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAIL")
    assert "DIVERGED: token 5 is 65 instead of" in said
    case = json.loads((tiny_folder.parent / "case.json").read_text())
    assert len(case["requests"]) == 1
    assert len(case["requests"][0]["prompt"]) <= 8
    monkeypatch.undo()
    monkeypatch.chdir(tiny_folder.parent)
    assert main(replayed) == 0, "the bug is gone"
    assert capsys.readouterr().out.startswith("PASS")


def test_planted_idleness_is_a_failure(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.drafters.ngram import Ngram

    monkeypatch.setattr(Ngram, "_guesses", lambda *args: ([], []))
    code, out, _ = verify(tiny_folder, capsys, "-n", "12")
    assert code == 1
    assert "DRAFT-DEGRADED: the profile drafts, but no token was ever drafted" in out


def test_coupled_sampling_is_compared_token_for_token(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report(tiny_folder, capsys, "-n", "12", "-t", "1", "--accept", "coupled", profile="plain")
    assert data["runs"][0]["guarantee"] == "G2"
    assert data["runs"][0]["totals"]["EXACT"] == 3


def test_sampling_is_tested_against_its_law(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(tiny_folder, capsys, "-n", "60", "-t", "1", profile="plain")
    run = data["runs"][0]
    assert run["guarantee"] == "law"
    assert [one["rejected"] for one in run["sampled"]["tests"]] == [False] * 3
    assert run["sampled"]["tests"][0]["n"] > 100
    assert run["sampled"]["before_repeat"] is None


@pytest.mark.parametrize("cut", [("--top-k", "20"), ("--top-p", "0.8"), ("--min-p", "0.02")], ids=str)
def test_native_sampling_with_a_cut_is_tested_by_the_runs_own_laws(
    cut: tuple[str, ...], tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-n", "12", "-t", "1", "--numerics", "native", "--dtype", "float32", "--quick", *cut)
    data = report(tiny_folder, capsys, *options, profile="plain")
    run = data["runs"][0]
    assert (run["guarantee"], run["problems"], data["exit_code"]) == ("law", [], 0)
    assert run["sampled"]["tests"][0]["n"] > 20


def test_planted_tokens_beyond_a_cut_are_found_in_native_numerics(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.decode import accept
    from specctl.decode.sampling import Law, Sampler

    honest = accept.rejection

    def uncut(scores: Any, draft: Any, rows: Any, sampler: Sampler) -> Any:
        return honest(scores, draft, rows, Sampler(Law(sampler.law.temperature), sampler.draws))

    monkeypatch.setitem(accept.ACCEPTORS, "rejection", uncut)
    options = ("-n", "12", "-t", "2", "--numerics", "native", "--dtype", "float32", "--quick", "--top-k", "5")
    data = report(tiny_folder, capsys, *options, profile="plain")
    assert data["exit_code"] == 1
    assert "support" in " ".join(one["what"] for one in data["runs"][0]["problems"])


def test_planted_greedy_text_is_not_the_sampled_law(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.decode import accept

    monkeypatch.setitem(accept.ACCEPTORS, "rejection", accept.greedy)
    data = report(tiny_folder, capsys, "-n", "60", "-t", "3", profile="plain")
    assert data["exit_code"] == 1
    assert "DISTRIBUTION" in {one["verdict"] for one in data["runs"][0]["problems"]}


def test_native_numerics_have_their_own_promise(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-n", "12", "--numerics", "native", "--quick", "--dtype", "float32")
    data = report(tiny_folder, capsys, *options, profile="plain")
    run = data["runs"][0]
    assert run["guarantee"] == "G3"
    assert run["noise"]["eps"] > 0
    assert data["exit_code"] == 0


def test_all_profiles_say_what_was_left_out(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = str(tiny_folder.parent / "prompts.txt")
    argv = ["verify-equivalence", "--all-profiles", "--target", str(tiny_folder), "--prompts", prompts]
    main([*argv, "-n", "40", "--json"])
    data = json.loads(capsys.readouterr().out)
    ran = {one["profile"] for one in data["runs"]}
    assert ran >= {"default", "ngram", "plain"}
    assert "draft-model" in data["not_verified"]
    assert ran | set(data["not_verified"]) == {one.name for one in files.list_profiles()}
    assert not ran & set(data["not_verified"])


@pytest.mark.parametrize(
    "argv",
    [
        ("--quick", "--thorough"),
        ("--all-profiles", "-p", "plain"),
        ("--prompts", "none.jsonl"),
        ("--batch-size", "0"),
        ("--replay", "none.json"),
        ("-p", "none-such"),
    ],
)
def test_wrong_requests_exit_with_2(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify-equivalence", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")


def test_the_short_name_is_an_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--help"]) == 0
    assert "token for token" in capsys.readouterr().out


@pytest.mark.real
def test_the_default_pair_passes(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-equivalence", "--quick", "-n", "8"]) == 0
    assert capsys.readouterr().out.startswith("PASS (G2, bit-exact bf16) 9/9: 9 exact; 0 violations; ")
