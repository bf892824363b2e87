"""The bounds of a JSON document, and the names other packages build on."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trunkline.openai_json
from tests.openai_json.strategies import json_values
from trunkline.errors import GatewayError
from trunkline.openai_json.document import decode_document, decode_upstream, nests_deeper
from trunkline.openai_json.extras import merge_extra, pack_extra, verbatim

_nasty = st.recursive(
    st.text(st.sampled_from('[]{}"\\\n é'), max_size=6) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[{"\\')), inner, max_size=3),
    max_leaves=10,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(each) for each in value), default=0)
    return 0


@given(_nasty, st.booleans(), st.integers(0, 6))
def test_depth_is_what_a_parser_would_find(value: Any, ascii_only: bool, limit: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()
    assert nests_deeper(text, limit) is (_depth(value) > limit)


@pytest.mark.parametrize("text", [b"[" * 300_000, b'{"a":' * 300_000, b"[" * 300_000 + b"]" * 300_000, b'["' * 99_999])
def test_no_depth_exhausts_the_stack(text: bytes) -> None:
    with pytest.raises(GatewayError):
        decode_document(text)
    with pytest.raises(GatewayError):
        decode_document(text, max_depth=10**9)
    with pytest.raises(GatewayError):
        decode_upstream(text)
    with pytest.raises(GatewayError):
        verbatim(text.decode(), "x")
    assert sys.getrecursionlimit() >= 1000


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), json_values, max_size=4))
def test_extra_members_come_back_in_place_and_in_order(members: dict[str, Any]) -> None:
    target: dict[str, Any] = {}
    merge_extra(target, pack_extra(members), "x")
    assert target == members
    assert list(target) == list(members)


def test_extra_members_add_at_any_depth_and_never_replace() -> None:
    target: dict[str, Any] = {"a": 1, "b": {"c": 2}}
    merge_extra(target, '{"a":9,"b":{"c":9,"d":3},"e":4}', "x")
    assert target == {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}


def test_the_public_names_are_these() -> None:
    assert sorted(trunkline.openai_json.__all__) == [
        "ChunkDecoder",
        "ChunkEncoder",
        "DecodedChat",
        "MintCallId",
        "decode_chat_reply",
        "decode_chat_request",
        "decode_usage",
        "encode_chat_reply",
        "encode_chat_request",
        "encode_error",
        "encode_usage",
        "error_from_object",
        "mint_call_id",
        "parse_openai_error",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":' + b"[" * 4_000_000 + b"]" * 4_000_000 + b"}", "more than 1000000 arrays"),
        (b'{"a":[' + b'"",' * 1_000_100 + b"{}]}" + b"[" * 101, "more than 1000000 strings"),
        (b'{"a":[' + (b"[" * 90 + b"]" * 90 + b",") * 20_000 + b"[]]}", "more than 1000000 arrays"),
    ],
    ids=["deep", "strings", "chains"],
)
def test_a_body_made_to_take_long_is_refused_quickly(body: bytes, message: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(GatewayError, match=message):
        decode_document(body)
    assert time.perf_counter() - begun < 2.0  # 13 s before there was a bound
