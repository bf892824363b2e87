"""Validators made from OpenAI's own API description, for tests that hold what we answer against it.

The description lies beside the project; where it is absent, a test that asks for a validator is skipped.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft202012Validator

__all__ = ["SPEC", "validator"]

SPEC: Final = Path(__file__).parents[2] / "shared" / "openai-spec" / "openapi.yaml"


def validator(name: str) -> Draft202012Validator:
    """Return the validator of a component schema, such as "CreateChatCompletionResponse"."""
    if not SPEC.exists():
        pytest.skip("OpenAI's API description is not beside the project")
    return _validator(name)


@cache
def _validator(name: str) -> Draft202012Validator:
    schemas = _schemas()
    assert name in schemas, f"the API description has no schema {name}"
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


@cache
def _schemas() -> dict[str, Any]:
    with SPEC.open("rb") as file:
        document = yaml.load(file, Loader=yaml.CSafeLoader)
    schemas: dict[str, Any] = _to_json_schema(document["components"]["schemas"])
    return schemas


def _to_json_schema(value: Any) -> Any:
    """Return a schema with OpenAPI's older `nullable`, which the description still uses, said in JSON Schema."""
    if isinstance(value, list):
        return [_to_json_schema(element) for element in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _to_json_schema(element) for key, element in value.items()}
    if schema.get("nullable") is True:
        del schema["nullable"]
        return {"anyOf": [schema, {"type": "null"}]}
    return schema
