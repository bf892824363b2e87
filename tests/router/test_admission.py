"""Who may call."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from services.router.admission import Admission
from services.router.config import AuthConfig
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

KEY = "sk-master-ключ"


def closed() -> Admission:
    return Admission(AuthConfig(master_key=SecretStr(KEY)))


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "])
def test_the_master_key_is_known(header: str) -> None:
    caller = closed().authenticate({"authorization": header})
    assert caller.key_id == "master"
    assert caller.is_operator


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": "Bearer \udcff"},
        {"authorization": b"Bearer x"},
        {"x-api-key": KEY},
    ],
)
def test_any_other_credential_is_refused_and_not_repeated(metadata: dict[str, str | bytes]) -> None:
    with pytest.raises(GatewayError) as raised:
        closed().authenticate(metadata)
    assert raised.value.reason == error_reason_pb2.ERROR_REASON_CALLER_UNAUTHENTICATED
    assert KEY[:6] not in raised.value.message


@pytest.mark.parametrize("metadata", [{}, {"authorization": "Bearer whatever"}, {"authorization": "nonsense"}])
def test_without_a_master_key_anyone_may_call(metadata: dict[str, str | bytes]) -> None:
    admission = Admission(AuthConfig())
    assert admission.authenticate(metadata).key_id == "anonymous"
    assert admission.require_operator(metadata, "deployments.list").is_operator


def test_operators_need_the_master_key_where_there_is_one() -> None:
    with pytest.raises(GatewayError):
        closed().require_operator({}, "deployments.list")
    assert closed().require_operator({"authorization": f"Bearer {KEY}"}, "deployments.list").key_id == "master"


def test_no_key_is_in_the_repr() -> None:
    assert KEY not in repr(vars(closed()))
