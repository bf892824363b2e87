"""How configuration is read: YAML with `${NAME}` references, checked by pydantic, refused with the path at fault.

This is the only module of the services that reads the environment; everyone else is given what it needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

__all__ = ["ConfigError", "Secret", "StrictModel", "environment", "load_yaml", "validate"]

Secret = SecretStr
"""A value that prints as asterisks; `get_secret_value()` is the only way to it."""

_MAX_BYTES: Final = 8 << 20
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# `{api_key: ${NAME}}` is not YAML: braces end a plain scalar. References are therefore replaced by characters that no
# configuration needs (a private-use pair around their number) before parsing, and resolved in the parsed scalars, so
# that a value can never change the document's structure.
_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACEHOLDER: Final = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

_Model = TypeVar("_Model", bound=BaseModel)


class ConfigError(Exception):
    """The configuration cannot be used. `path` is the member, such as "models.gpt-4o.retries"; no value is shown."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class StrictModel(BaseModel):
    """A part of the configuration: unknown members are refused, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def environment() -> Mapping[str, str]:
    """Return the process's environment; blank values count as unset."""
    return {name: value for name, value in os.environ.items() if value.strip()}


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key given twice: the first would be lost in silence."""

    # On libyaml's parser, which takes half the time of the Python one on ten thousand models.

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the document of a file, its references resolved from `environ`. Raises ConfigError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror or "cannot be read") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError(str(path), f"is larger than {_MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "is not UTF-8") from error
    return parse_yaml(text, environ, where=str(path))


def parse_yaml(text: str, environ: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """Return the document of a text, its references resolved from `environ`. Raises ConfigError."""
    if _OPEN in text or _CLOSE in text:
        raise ConfigError(where, "holds a private-use character")
    references: list[re.Match[str]] = []

    def remember(found: re.Match[str]) -> str:
        references.append(found)
        return f"{_OPEN}{len(references) - 1}{_CLOSE}"

    try:
        document = yaml.load(_REFERENCE.sub(remember, text), _Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(where, _yaml_problem(error)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(where, "must be a mapping")
    resolved = _resolve(document, "", references, environ)
    assert isinstance(resolved, dict)
    return resolved


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or "is not YAML"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)


def _resolve(value: object, path: str, references: list[re.Match[str]], environ: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        return {
            _resolve(key, path, references, environ): _resolve(
                inner, f"{path}.{key}" if path else str(key), references, environ
            )
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_resolve(inner, f"{path}[{number}]", references, environ) for number, inner in enumerate(value)]
    if not isinstance(value, str) or _OPEN not in value:
        return value

    def look_up(found: re.Match[str]) -> str:
        name, default = references[int(found[1])].groups()
        if name in environ:
            return environ[name]
        if default is None:
            raise ConfigError(path, f"the environment has no {name}")
        return str(default)

    return _PLACEHOLDER.sub(look_up, value)


def validate(model: type[_Model], data: object, where: str = "") -> _Model:
    """Return the data as a model. Raises ConfigError naming each member at fault, never its value."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{_path(problem['loc']) or where or 'the document'}: {_reason(problem['type'], problem['msg'])}"
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ConfigError("", "; ".join(problems)) from None


def _reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown member"
    return message.removeprefix("Value error, ")


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path
