"""Profiles: every mistake is found, named with file and line, and nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from specctl import paths
from specctl.errors import ExitCode, ProfileError, RequestError
from specctl.profile import drafters, files, override, read, schema, yaml_file
from specctl.profile.files import Found

HEAD = "schema: 1\nabout: a test\npair: smollm2-135m\n"
PLAIN = HEAD + "drafter: {method: none}\n"
NGRAM = HEAD + "drafter: {method: ngram}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an empty folder of one's own."""
    monkeypatch.setenv("SPECCTL_CONFIG_DIR", str(tmp_path / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def problems(folder: Path, text: str | bytes) -> list[str]:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read.check(Found("x", "path", path, False))
    return [line.removeprefix(f"{path}:") for line in found]


BAD = {
    "empty file": ("", "1: must hold `key: value` lines"),
    "only a comment": ("# nothing\n", "1: must hold `key: value` lines"),
    "a list": ("- 1\n- 2\n", "1: must hold `key: value` lines"),
    "a word": ("hello\n", "1: must hold `key: value` lines"),
    "no schema": (PLAIN.replace("schema: 1\n", ""), "1: schema: is missing"),
    "newer schema": (PLAIN.replace("schema: 1", "schema: 2"), "1: schema: must be 1 (got `2`)"),
    "quoted schema": (PLAIN.replace("schema: 1", "schema: '1'"), "1: schema: must be 1 (got `1`)"),
    "no about": (PLAIN.replace("about: a test\n", ""), "1: about: is missing"),
    "about is a number": (PLAIN.replace("a test", "7"), "2: about: must be text; quote it (got `7`)"),
    "no drafter": (HEAD, "1: drafter: is missing"),
    "drafter is a word": (
        HEAD + "drafter: ngram\n",
        "4: drafter: must hold `key: value` lines (got `ngram`)",
    ),
    "no method": (
        HEAD + "drafter: {draft_tokens: 3}\n",
        "4: drafter: `method` is missing; one of none, draft-model, self, ngram, kangaroo, s2d, mirror, auto",
    ),
    "unknown method": (
        HEAD + "drafter:\n  method: n-gram\n",
        "5: drafter.method: `n-gram` is not a method; did you mean `ngram`? "
        "(known: none, draft-model, self, ngram, kangaroo, s2d, mirror, auto)",
    ),
    "unlikely method": (
        HEAD + "drafter: {method: [1]}\n",
        "4: drafter.method: `[1]` is not a method "
        "(known: none, draft-model, self, ngram, kangaroo, s2d, mirror, auto)",
    ),
    "unknown key": (NGRAM + "temperatur: 1\n", "5: temperatur: is not a known key"),
    "near key": (
        NGRAM + "max_new_token: 1\n",
        "5: max_new_token: is not a known key; did you mean `max_new_tokens`?",
    ),
    "near key in a part": (
        NGRAM + "sampling:\n  temperatur: 1\n",
        "6: sampling.temperatur: is not a known key; did you mean `temperature`?",
    ),
    "near key in the drafter": (
        HEAD + "drafter:\n  method: ngram\n  draft_token: 4\n",
        "6: drafter.draft_token: is not a known key; did you mean `draft_tokens`?",
    ),
    "another method's key": (
        HEAD + "drafter: {method: none, draft_tokens: 4}\n",
        "4: drafter.draft_tokens: is not a known key",
    ),
    "own name": (PLAIN + "name: x\n", "5: name: is not a known key; the file name is the name"),
    "no tokens to draft": (
        HEAD + "drafter: {method: ngram, draft_tokens: 0}\n",
        "4: drafter.draft_tokens: must be at least 1 (got `0`)",
    ),
    "tokens to draft in words": (
        HEAD + "drafter: {method: ngram, draft_tokens: many}\n",
        "4: drafter.draft_tokens: must be a whole number or `auto` (got `many`)",
    ),
    "auto for a method without it": (
        HEAD + "drafter: {method: kangaroo, draft_tokens: auto}\n",
        "4: drafter.draft_tokens: must be a whole number (got `auto`)",
    ),
    "too many tokens to draft": (
        HEAD + "drafter: {method: ngram, draft_tokens: 65}\n",
        "4: drafter.draft_tokens: must be at most 64 (got `65`)",
    ),
    "min above max": (
        HEAD + "drafter: {method: ngram, min_ngram: 4, max_ngram: 2}\n",
        "4: drafter.min_ngram: must be at most max_ngram (2)",
    ),
    "confidence above one": (
        HEAD + "drafter: {method: draft-model, min_confidence: 1.5}\n",
        "4: drafter.min_confidence: must be at most 1.0 (got `1.5`)",
    ),
    "half a token": (
        PLAIN + "max_new_tokens: 1.5\n",
        "5: max_new_tokens: must be a whole number (got `1.5`)",
    ),
    "no new tokens": (PLAIN + "max_new_tokens: 0\n", "5: max_new_tokens: must be at least 1 (got `0`)"),
    "null for a number": (
        PLAIN + "max_new_tokens:\n",
        "5: max_new_tokens: must be a whole number (got `null`)",
    ),
    "yes is no number": (
        PLAIN + "max_new_tokens: yes\n",
        "5: max_new_tokens: must be a whole number (got `yes`)",
    ),
    "true is no number": (
        PLAIN + "max_new_tokens: true\n",
        "5: max_new_tokens: must be a whole number (got `True`)",
    ),
    "octal": (PLAIN + "max_new_tokens: 010\n", "5: max_new_tokens: must be a whole number (got `010`)"),
    "hexadecimal": (
        PLAIN + "max_new_tokens: 0x10\n",
        "5: max_new_tokens: must be a whole number (got `0x10`)",
    ),
    "sexagesimal": (
        PLAIN + "max_new_tokens: 1:30\n",
        "5: max_new_tokens: must be a whole number (got `1:30`)",
    ),
    "a quoted number": (
        PLAIN + "max_new_tokens: '5'\n",
        "5: max_new_tokens: must be a whole number (got `5`)",
    ),
    "negative temperature": (
        PLAIN + "sampling: {temperature: -0.1}\n",
        "5: sampling.temperature: must be at least 0.0 (got `-0.1`)",
    ),
    "top_p of nothing": (
        PLAIN + "sampling: {top_p: 0}\n",
        "5: sampling.top_p: must be more than 0.0 (got `0`)",
    ),
    "min_p above one": (PLAIN + "sampling: {min_p: 2}\n", "5: sampling.min_p: must be at most 1.0 (got `2`)"),
    "negative seed": (PLAIN + "sampling: {seed: -1}\n", "5: sampling.seed: must be at least 0 (got `-1`)"),
    "not a number": (PLAIN + "sampling: {top_p: .nan}\n", "5: sampling.top_p: `.nan` is not a finite number"),
    "infinite": (PLAIN + "sampling: {top_p: -.inf}\n", "5: sampling.top_p: `-.inf` is not a finite number"),
    "too large": (PLAIN + "sampling: {top_p: 1e400}\n", "5: sampling.top_p: `1e400` is too large"),
    "sampling is a list": (
        PLAIN + "sampling: [1]\n",
        "5: sampling: must hold `key: value` lines (got `[1]`)",
    ),
    "unknown acceptor": (
        PLAIN + "accept: couple\n",
        "5: accept: must be `rejection` or `coupled` (got `couple`)",
    ),
    "unknown device": (
        PLAIN + "device: gpu\n",
        "5: device: must be auto, cpu, mps, cuda, cuda:N, xpu or xpu:N",
    ),
    "unknown dtype": (
        PLAIN + "dtype: int8\n",
        "5: dtype: must be `auto`, `bfloat16`, `float16`, `float32` or `float64` (got `int8`)",
    ),
    "stop is a word": (PLAIN + "stop: END\n", "5: stop: must be a list (got `END`)"),
    "empty stop": (PLAIN + "stop: ['a', '']\n", "5: stop[1]: must not be empty"),
    "many stops": (PLAIN + f"stop: {['x'] * 17}\n", "5: stop: must have at most 16 entries (got 17)"),
    "pair and target": (PLAIN + "target: x/y\n", "5: target: excludes `pair`; give one of them"),
    "no model at all": (
        PLAIN.replace("pair: smollm2-135m\n", ""),
        "1: pair: is missing; give `pair` or `target`",
    ),
    "target without draft": (
        "schema: 1\nabout: x\ntarget: a/b\ndrafter: {method: draft-model}\n",
        "1: draft: is missing; method `draft-model` needs a draft model",
    ),
    "another draft than itself": (
        HEAD + "drafter: {method: self}\ndraft: a/b\n",
        "5: draft.model: is of no use to method `self`",
    ),
    "unknown scheme": (
        HEAD + "drafter: {method: self}\ndraft: {quantize: int3}\n",
        "5: draft.quantize: must be `int8` or `int4` (got `int3`)",
    ),
    "idle draft": (NGRAM + "draft: a/b\n", "5: draft: is of no use to method `ngram`"),
    "key twice": (
        PLAIN + "seed: 1\nabout: again\n".replace("seed: 1\n", ""),
        "5: about: is given twice (first on line 2)",
    ),
    "alias": ("a: &x [1]\nb: *x\n", "1: a: uses a YAML anchor; write the value out"),
    "alias of nothing": ("b: *x\n", "1: b: uses a YAML alias; write the value out"),
    "merge key": (PLAIN + "<<: {stop: []}\n", "5: <<: is not a known key"),
    "python object": (
        "about: !!python/object/apply:os.system [id]\n",
        "1: about: uses a YAML tag; plain values only",
    ),
    "tag": ("about: !!str 1\n", "1: about: uses a YAML tag; plain values only"),
    "two documents": (PLAIN + "---\n" + PLAIN, "5: holds more than one document"),
    "list as key": ("? [1]\n: 2\n", "1: has a key that is not text"),
    "deep list": ("a: " + "[" * 10_000, None),
    "deep mapping": ("{a: " * 10_000, None),
    "tab": ("\tschema: 1\n", None),
    "unclosed": ("about: 'x\n", None),
    "two colons": ("about: a: b\n", None),
    "NUL": ("about: a\0b\n", "1: is not valid YAML: special characters are not allowed"),
    "escape": ("schema: 1\nabout: a\x1b[31m\n", "2: is not valid YAML: special characters are not allowed"),
    "byte order mark": (
        b"\xef\xbb\xbf" + PLAIN.encode(),
        "1: starts with a byte order mark; save it as plain UTF-8",
    ),
    "UTF-16": (PLAIN.encode("utf-16"), "1: starts with a byte order mark; save it as plain UTF-8"),
    "Latin-1": (b"schema: 1\nabout: caf\xe9\n", "2: is not UTF-8 (byte 0xe9)"),
    "too big": (PLAIN + "#" * (256 * 1024), "1: is larger than 256 KB"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_a_mistake_is_named_with_its_line(folder: Path, case: str) -> None:
    text, expected = BAD[case]
    found = problems(folder, text)
    assert len(found) == 1
    assert "\n" not in found[0]
    if expected is not None:
        assert found == [expected]


@pytest.mark.parametrize("text", [PLAIN, NGRAM, PLAIN + "sampling: {temperature: 1, top_p: 1e-5}\n"])
def test_a_good_profile_has_no_problem(folder: Path, text: str) -> None:
    assert problems(folder, text) == []


def test_all_mistakes_of_a_file_are_found_at_once_in_its_order(folder: Path) -> None:
    text = (
        HEAD + "about: twice\ndrafter:\n  method: ngram\n  max_ngram: 0\nsamplin: {}\nsampling:\n  top_k: x\n"
    )
    assert [line.split(": ")[:2] for line in problems(folder, text)] == [
        ["4", "about"],
        ["7", "drafter.max_ngram"],
        ["8", "samplin"],
        ["10", "sampling.top_k"],
    ]


def test_billion_laughs_is_refused_at_the_first_anchor(folder: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert problems(folder, "\n".join(lines)) == ["1: a0: uses a YAML anchor; write the value out"]


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5", ".00001"])
def test_every_way_to_write_a_small_number_is_one(text: str) -> None:
    assert yaml_file.parse(f"a: {text}").value == {"a": 0.00001}


def test_words_and_numbers_follow_yaml_1_2() -> None:
    text = "a: no\nb: on\nc: 2024-01-01\nd: null\ne: ~\nf: true\ng: -7\nh: '8'\ni: +.5\nj: \"\\x1b\"\n"
    expected = {"a": "no", "b": "on", "c": "2024-01-01", "d": None, "e": None, "f": True, "g": -7, "h": "8"}
    assert yaml_file.parse(text).value == {**expected, "i": 0.5, "j": "\x1b"}


def test_the_reader_agrees_with_pyyaml_where_both_may_read() -> None:
    for found in files.list_profiles():
        text = found.path.read_text(encoding="utf-8")
        assert yaml_file.parse(text).value == yaml.safe_load(text)


def test_the_nearest_profile_of_a_name_wins(folder: Path) -> None:
    for place in (paths.user_profiles_dir(), folder / "profiles"):
        place.mkdir(parents=True)
        (place / "plain.yaml").write_text(PLAIN.replace("a test", place.name + place.parent.name))
    assert read.load("plain").about == "profileswork"
    sources = [(one.source, one.shadowed) for one in files.list_profiles() if one.name == "plain"]
    assert sources == [("project", False), ("user", True), ("shipped", True)]
    (folder / "profiles" / "plain.yaml").unlink()
    assert read.load("plain").about == "profilesconfig"
    assert read.load(str(paths.shipped_profiles_dir() / "plain.yaml")).about.startswith("plain decoding")


def test_unknown_profiles_suggest_the_nearest(folder: Path) -> None:
    with pytest.raises(ProfileError, match="no profile `ngrm`") as caught:
        read.load("ngrm")
    assert caught.value.exit_code is ExitCode.REQUEST
    assert "did you mean `ngram`?" in (caught.value.hint or "")


NAMES = ["", "-x", "A", "a b", "a\0", "a\n", "é", "con", "nul.x", "a" * 65, "\u202ea", ".hidden", "a:b"]


@pytest.mark.parametrize("name", NAMES)
def test_impossible_names_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ProfileError, match="cannot be a profile's name"):
        read.load(name)


@pytest.mark.parametrize("name", ["a", "0", "a.b-c_d", "a" * 64, "console"])
def test_possible_names_are_looked_for(folder: Path, name: str) -> None:
    with pytest.raises(ProfileError, match="no profile"):
        read.load(name)


def test_files_with_other_names_are_not_listed(folder: Path) -> None:
    paths.user_profiles_dir().mkdir(parents=True)
    for name in ("Bad Name.yaml", "good.yaml", "notes.txt"):
        (paths.user_profiles_dir() / name).write_text(PLAIN)
    assert [one.name for one in files.list_profiles() if one.source == "user"] == ["good"]


@pytest.mark.parametrize("where", ["./none.yaml", "folder.yaml", "../../../../etc/nothing.yaml"])
def test_a_path_that_is_no_file_is_a_request_error(folder: Path, where: str) -> None:
    (folder / "folder.yaml").mkdir()
    with pytest.raises(ProfileError, match=r"no file|not a file"):
        read.load(where)


class TestMerge:
    base = schema.Profile(
        schema=1, about="x", pair="qwen2.5-coder-1.5b", drafter=drafters.NgramParams(method="ngram"), name="x"
    )

    def test_nothing_typed_changes_nothing(self) -> None:
        assert override.merge(self.base, {}) is self.base

    def test_typed_values_win_and_the_rest_stays(self) -> None:
        typed = {"sampling.temperature": 0.5, "sampling.top_k": 0, "drafter.draft_tokens": 3, "stop": ["x"]}
        merged = override.merge(self.base, typed)
        assert merged.sampling == schema.Sampling(temperature=0.5)
        assert merged.drafter == drafters.NgramParams(method="ngram", draft_tokens=3)
        assert (merged.stop, merged.name, merged.pair) == (["x"], "x", self.base.pair)

    def test_a_typed_target_replaces_the_pair(self) -> None:
        merged = override.merge(self.base, {"target": "a/b"})
        assert (merged.pair, merged.target, merged.draft) == (None, "a/b", None)

    def test_a_lone_model_is_a_block_with_that_model(self) -> None:
        merged = override.merge(self.base, {"draft": "a/b"})
        assert merged.draft == schema.DraftSource.model_validate("a/b") == schema.DraftSource(model="a/b")

    def test_other_models_are_quantised_the_same(self) -> None:
        fields = {"schema": 1, "about": "x", "pair": "p", "draft": {"model": "a/b", "quantize": "int4"}}
        base = schema.Profile.model_validate({**fields, "drafter": {"method": "draft-model"}})
        assert override.merge(base, {"pair": "q"}).draft == schema.DraftSource(quantize="int4")
        assert override.merge(base, {"draft": "c"}).draft == schema.DraftSource(model="c", quantize="int4")

    def test_a_typed_draft_chooses_the_draft_model_method(self) -> None:
        merged = override.merge(self.base, {"draft": "a/b", "drafter.draft_tokens": 7})
        assert merged.drafter == drafters.DraftModelParams(method="draft-model", draft_tokens=7)
        assert merged.pair == self.base.pair

    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ({"sampling.temperature": -1.0}, "`--temperature` must be at least 0.0 (got `-1.0`)"),
            ({"sampling.temperature": float("nan")}, "`--temperature` must be a finite number (got `nan`)"),
            ({"sampling.top_p": float("inf")}, "`--top-p` must be a finite number (got `inf`)"),
            ({"max_new_tokens": 0}, "`--max-new-tokens` must be at least 1 (got `0`)"),
            ({"pair": "a", "target": "b"}, "`--pair` and `--target` exclude each other"),
            ({"accept": "x"}, "`--accept` must be `rejection` or `coupled` (got `x`)"),
            ({"stop": [""]}, "`--stop` must not be empty"),
        ],
    )
    def test_a_wrong_option_is_named_as_an_option(self, typed: dict[str, object], message: str) -> None:
        with pytest.raises(RequestError) as caught:
            override.merge(self.base, typed)
        assert caught.value.message == message

    def test_draft_tokens_need_a_method_that_drafts(self) -> None:
        plain = override.merge(self.base, {})
        plain = plain.model_copy(update={"drafter": drafters.NoneParams(method="none")})
        with pytest.raises(RequestError, match="of no use to method `none`"):
            override.merge(plain, {"drafter.draft_tokens": 2})

    def test_origins_say_who_set_a_value(self) -> None:
        typed = {"sampling.seed": 4}
        found = {
            field: (value, origin)
            for field, value, origin in override.origins(self.base, override.merge(self.base, typed), typed)
        }
        assert found["sampling.seed"] == (4, "typed")
        assert found["pair"] == (self.base.pair, "profile x")
        assert found["drafter.draft_tokens"] == (24, "default")


class TestShipped:
    def test_every_shipped_profile_is_right_and_deterministic(self, folder: Path) -> None:
        shipped = files.list_profiles()
        assert [one.name for one in shipped] == [
            "auto",
            "default",
            "draft-int4",
            "draft-model",
            "kangaroo",
            "kangaroo-int4",
            "mirror",
            "ngram",
            "plain",
            "s2d",
            "self-int4",
        ]
        for one in shipped:
            loaded = read.load(one.name)
            assert (loaded.sampling.temperature, loaded.sampling.seed) == (0, 0)
            assert files.about(one.path) == loaded.about != ""

    def test_the_default_profile_runs_the_default_pair(self, folder: Path) -> None:
        from specctl.store import registry

        assert read.load("default").pair == registry.default_pair()

    def test_the_json_schema_is_the_generated_one(self) -> None:
        path = paths.shipped_profiles_dir() / "profile.schema.json"
        assert path.read_text(encoding="utf-8") == schema.schema_text(), (
            "run `python -m specctl.profile profiles/profile.schema.json`"
        )

    def test_editors_find_the_schema(self) -> None:
        for one in files.list_profiles():
            first = one.path.read_text(encoding="utf-8").splitlines()[0]
            assert first == "# yaml-language-server: $schema=profile.schema.json"

    def test_the_schema_has_what_a_file_may_hold(self) -> None:
        generated = json.loads(schema.schema_text())
        assert "name" not in generated["properties"]
        assert set(generated["required"]) == {"schema", "about", "drafter"}
        assert not generated["additionalProperties"]

    def test_the_docs_explain_every_field_with_its_default(self) -> None:
        text = (Path(__file__).parents[1] / "docs" / "profiles.md").read_text(encoding="utf-8")
        methods = get_args(get_args(drafters.Drafter)[0])
        for model in (schema.Profile, schema.DraftSource, schema.Sampling, *methods):
            for name, field in model.model_fields.items():
                if name in ("name", "method"):
                    continue
                rows = [row for row in text.splitlines() if row.startswith(f"| `{field.alias or name}` |")]
                assert rows, f"docs/profiles.md does not explain `{name}`"
                if isinstance(field.default, (int, float)):
                    assert any(f"`{str(field.default).lower()}`" in row for row in rows), name
