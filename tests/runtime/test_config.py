"""Configuration: references, duplicates and unknown members, each refused with its path and without its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.runtime.config import ConfigError, Secret, StrictModel, environment, load_yaml, parse_yaml, validate

ENVIRON = {"KEY": "sk-1", "ODD": "a}: b\n- c #d"}


class Inner(StrictModel):
    weight: float = 1.0
    api_key: Secret | None = None


class Outer(StrictModel):
    name: str
    parts: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a: 1", {"a": 1}),
        ("auth: {master_key: ${KEY}}", {"auth": {"master_key": "sk-1"}}),
        ("a: ${KEY}", {"a": "sk-1"}),
        ('a: "x-${KEY}-y"', {"a": "x-sk-1-y"}),
        ("a: [${KEY}, ${UNSET:-b}]", {"a": ["sk-1", "b"]}),
        ("a: ${UNSET:-}", {"a": ""}),
        ("a: ${ODD}", {"a": "a}: b\n- c #d"}),
        ("# ${UNSET}\na: 1", {"a": 1}),
        ("${KEY}: 1", {"sk-1": 1}),
    ],
)
def test_references_are_resolved_wherever_a_scalar_may_stand(text: str, expected: object) -> None:
    assert parse_yaml(text, ENVIRON, where="f") == expected


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("auth: {master_key: ${NOPE}}", "auth.master_key", "the environment has no NOPE"),
        ("a: [1, {b: ${NOPE}}]", "a[1].b", "the environment has no NOPE"),
        ("a: 1\na: 2", "f", "'a' is given twice"),
        ("- 1", "f", "must be a mapping"),
        ("a: [", "f", "did not find expected node content"),
        ("a: \ue0000\ue001", "f", "private-use"),
        ("a: !!python/object/apply:os.system [x]", "f", "could not determine a constructor"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, ENVIRON, where="f")
    assert caught.value.path == path
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"name": "x", "nmae": "y"}, "nmae: unknown member"),
        ({"name": "x", "parts": [{}, {"wieght": 2}]}, "parts[1].wieght: unknown member"),
        ({}, "name: Field required"),
        ({"name": "x", "parts": [{"api_key": ["sk-secret"]}]}, "parts[0].api_key: Input should be a valid string"),
    ],
)
def test_a_member_at_fault_is_named_by_its_path(data: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        validate(Outer, data)
    assert expected in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_a_secret_does_not_print() -> None:
    model = validate(Inner, {"api_key": "sk-secret"})
    assert "sk-secret" not in repr(model)
    assert "sk-secret" not in str(model)
    assert "sk-secret" not in model.model_dump_json()


def test_a_file_that_is_missing_or_not_utf_8_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml", {})


def test_a_blank_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_TEST_BLANK", " ")
    monkeypatch.setenv("TRUNKLINE_TEST_SET", "x")
    assert "TRUNKLINE_TEST_BLANK" not in environment()
    assert environment()["TRUNKLINE_TEST_SET"] == "x"
