"""Rules of the architecture that import-linter cannot see, each closed over an open set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.providers.catalog import load_catalog
from tests.e2e.gateway_process import ROOT
from trunkline.errors import FACES, GatewayError, Reason, from_status, reason_name, to_status
from trunkline.errors.v1 import error_reason_pb2

PACKAGES = ("proto/trunkline", "services", "gateway_http", "trunkline_cli")


def sources() -> Iterator[tuple[str, str]]:
    """Yield (path below the root, text) of every hand-written module."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not re.search(r"_pb2(_grpc)?\.py$", path.name):
                yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {path for path, text in sources() if re.search(r"\bos\.(environ|getenv)\b|\bfrom os import", text)}
    assert readers == {"services/runtime/config.py"}


def test_no_code_decides_by_a_providers_name() -> None:
    names = sorted(set(load_catalog()) - {"demo"})
    quoted = re.compile(rf"""(["'])({"|".join(map(re.escape, names))})\1""")
    found = [
        f"{path}:{number}"
        for path, text in sources()
        if not path.startswith("services/providers/custom/")
        for number, line in enumerate(text.splitlines(), 1)
        if quoted.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("reason", [value for value in Reason.values() if value], ids=reason_name)
def test_every_reason_has_a_face_and_survives_the_wire(reason: Reason.ValueType) -> None:
    assert reason in FACES
    error = GatewayError(reason, "what happened", param="messages", metadata={"model": "m"}, retry_after=1.5)
    read = from_status(to_status(error))
    assert (read.reason, read.message, read.metadata, read.retry_after) == (
        reason,
        "what happened",
        {"model": "m", "param": "messages"},
        1.5,
    )


def test_every_reason_shows_a_worked_example_where_it_is_declared() -> None:
    declared = (ROOT / "proto/trunkline/errors/v1/error_reason.proto").read_text()
    for reason in Reason.values():
        if reason != error_reason_pb2.ERROR_REASON_UNSPECIFIED:
            assert f'`{{"reason":"{reason_name(reason)}"' in declared


def test_every_module_says_what_it_is() -> None:
    silent = [path for path, text in sources() if text.strip() and not text.lstrip().startswith(('"""', 'r"""'))]
    assert silent == []


def test_no_module_passes_the_length_we_keep_to() -> None:
    assert [path for path, text in sources() if len(text.splitlines()) > 450] == []
    assert Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
