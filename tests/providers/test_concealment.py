from __future__ import annotations

import pytest

from services.providers.concealment import Concealment
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

KEY = "k3y-of.no+known~form"


def concealed(concealment: Concealment, message: str, **metadata: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught, concealment:
        raise GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, message, metadata=metadata)
    return caught.value


def test_every_place_of_the_secret_is_masked() -> None:
    error = concealed(Concealment([KEY]), f"no {KEY}, not {KEY}!", upstream_code=KEY, param="a")
    assert error.message == "no [redacted], not [redacted]!"
    assert str(error) == error.message
    assert error.metadata == {"upstream_code": "[redacted]", "param": "a"}


def test_a_secret_within_another_is_masked_with_it() -> None:
    assert concealed(Concealment([KEY, f"{KEY}-longer"]), f"{KEY}-longer").message == "[redacted]"


@pytest.mark.parametrize("secrets", [[], [""], ["none"], ["EMPTY"]])
def test_what_is_no_secret_stays(secrets: list[str]) -> None:
    assert concealed(Concealment(secrets), "none is EMPTY").message == "none is EMPTY"


def test_other_exceptions_pass_as_they_are() -> None:
    with pytest.raises(ValueError, match=KEY.replace("+", r"\+")), Concealment([KEY]):
        raise ValueError(KEY)
