"""The OpenAI chat dialect, from the bytes in tests/providers/cases/openai_chat.

A case is a folder; its `case.json` says what it shows and whose catalog row it is of. `chat.json` is a client's request
and `sent.json` what the upstream must see of it, with `warnings` for the members left out. `stream.sse` and
`answer.json` hold one answer in both forms, `reply.json` the reply (protobuf JSON) that both must give. `error` names
the reason a stream, or the `body.txt` of an `http` status, must end with.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.providers.catalog import load_catalog
from services.providers.dialects.openai_chat import DIALECT
from services.providers.endpoint import Endpoint
from services.providers.framing import SseDecoder
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply
from trunkline.openai_json import decode_chat_request
from trunkline.reply import GrammarChecker, fold

CASES = Path(__file__).parents[1] / "cases" / "openai_chat"
CATALOG = load_catalog()
MESSAGES = '[{"role":"user","content":"Hi"}]'


def endpoint_of(catalog: str, **options: str) -> Endpoint:
    row = CATALOG[catalog]
    return Endpoint(
        name="acme",
        catalog=catalog,
        dialect="openai_chat",
        base_url="http://upstream",
        capabilities=row.capabilities,
        renames=row.renames,
        drops=row.drops,
        options=options or row.options,
    )


def folders(file: str, *, has: str = "case.json") -> list[Any]:
    found = sorted(path.parent for path in CASES.glob(f"*/{file}") if (path.parent / has).exists())
    return [pytest.param(folder, id=folder.name) for folder in found]


def case_of(folder: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return case


def parse_stream(body: bytes, endpoint: Endpoint) -> list[ChatEvent]:
    decoder, parser, checker = SseDecoder(), DIALECT.open_stream(endpoint), GrammarChecker()
    events: list[ChatEvent] = []
    for frame in [*decoder.feed(body), *decoder.end()]:
        events += parser.parse_frame(frame)
    events += parser.parse_end()
    for event in events:
        checker.check(event)
    checker.end()
    return events


def expected_reply(folder: Path) -> ChatReply:
    return json_format.Parse((folder / "reply.json").read_text(), ChatReply())


@pytest.mark.parametrize("folder", folders("chat.json", has="sent.json"))
def test_a_request_is_rendered_as_the_provider_takes_it(folder: Path) -> None:
    case = case_of(folder)
    chat = decode_chat_request((folder / "chat.json").read_bytes()).chat
    before = chat.SerializeToString(deterministic=True)
    call = DIALECT.render_chat(chat, "m-1", endpoint_of(case["catalog"]), stream=case.get("stream", False))
    assert (call.method, call.path, call.headers) == ("POST", "/chat/completions", ())
    assert json.loads(call.body) == json.loads((folder / "sent.json").read_text())
    assert sorted(warning.param for warning in call.warnings) == case.get("warnings", [])
    assert chat.SerializeToString(deterministic=True) == before


def test_json_documents_keep_their_order_and_their_numbers() -> None:
    parameters = '{"z": 1.0, "a": {"y": 10000000000000000000000, "b": 1e2}}'
    function = f'{{"name":"f","parameters":{parameters}}}'
    tools = f'[{{"type":"function","function":{function}}}]'
    chat = decode_chat_request(f'{{"model":"x","messages":{MESSAGES},"tools":{tools}}}'.encode()).chat
    assert parameters.encode() in DIALECT.render_chat(chat, "m", endpoint_of("openai"), stream=False).body


@pytest.mark.parametrize("folder", folders("stream.sse", has="reply.json"))
def test_a_stream_folds_to_the_expected_reply(folder: Path) -> None:
    events = parse_stream((folder / "stream.sse").read_bytes(), endpoint_of(case_of(folder)["catalog"]))
    assert fold(events) == expected_reply(folder)


@pytest.mark.parametrize("folder", folders("answer.json", has="reply.json"))
def test_a_whole_answer_gives_the_same_reply_as_its_stream(folder: Path) -> None:
    reply = DIALECT.parse_chat((folder / "answer.json").read_bytes(), endpoint_of(case_of(folder)["catalog"]))
    expected = expected_reply(folder)
    for one in (reply, expected):  # The spelling of the object is each body's own.
        one.usage.raw_json = json.dumps(json.loads(one.usage.raw_json), sort_keys=True)
    assert reply == expected


@pytest.mark.parametrize("folder", folders("stream.sse", has="reply.json"))
@given(cuts=st.lists(st.integers(0, 3000), max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_of_a_stream_gives_the_same_events(folder: Path, cuts: list[int]) -> None:
    body, endpoint = (folder / "stream.sse").read_bytes(), endpoint_of(case_of(folder)["catalog"])
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    decoder, parser = SseDecoder(), DIALECT.open_stream(endpoint)
    events: list[ChatEvent] = []
    for start, end in itertools.pairwise(edges):
        for frame in decoder.feed(body[start:end]):
            events += parser.parse_frame(frame)
    for frame in decoder.end():
        events += parser.parse_frame(frame)
    assert events + parser.parse_end() == parse_stream(body, endpoint)


def error_of(folder: Path) -> GatewayError:
    case = case_of(folder)
    endpoint = endpoint_of(case["catalog"])
    if "http" in case:
        http = case["http"]
        return DIALECT.parse_error(http["status"], http["headers"], (folder / "body.txt").read_bytes(), endpoint)
    with pytest.raises(GatewayError) as caught:
        parse_stream((folder / "stream.sse").read_bytes(), endpoint)
    return caught.value


@pytest.mark.parametrize("folder", [each for each in folders("case.json") if "error" in case_of(each.values[0])])
def test_an_error_has_its_reason(folder: Path) -> None:
    expected = case_of(folder)["error"]
    error = error_of(folder)
    assert (error.name, error.param, error.retry_after) == (
        expected["reason"],
        expected.get("param"),
        expected.get("retry_after"),
    )
    if "status" in expected:
        assert error.metadata["upstream_status"] == expected["status"]
    assert "<html" not in error.message


def test_what_follows_the_terminal_event_is_not_read() -> None:
    body = (CASES / "text" / "stream.sse").read_bytes()
    assert parse_stream(body + b"data: {broken\n\n", endpoint_of("openai")) == parse_stream(body, endpoint_of("openai"))


def chat_with_reasoning(member: str = "") -> Chat:
    thought = chat_pb2.Part(reasoning=chat_pb2.ReasoningPart(text="Hmm.", signature="sig", member=member))
    said = chat_pb2.Part(text=chat_pb2.TextPart(text="Yes."))
    assistant = chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=[thought, said])
    assistant.content_form = chat_pb2.CONTENT_FORM_STRING
    return Chat(messages=[assistant])


@pytest.mark.parametrize(
    ("catalog", "member", "expected"),
    [
        ("openai", "", {}),
        ("deepseek", "", {"reasoning_content": "Hmm."}),
        ("groq", "", {"reasoning": "Hmm."}),
        ("openrouter", "", {"reasoning_details": [{"type": "reasoning.text", "text": "Hmm.", "signature": "sig"}]}),
        ("groq", "reasoning_content", {"reasoning": "Hmm."}),
        ("deepseek", "reasoning", {"reasoning_content": "Hmm."}),
        ("openai", "reasoning_content", {"reasoning_content": "Hmm."}),
    ],
)
def test_reasoning_of_earlier_turns_goes_into_the_providers_member(
    catalog: str, member: str, expected: dict[str, Any]
) -> None:
    call = DIALECT.render_chat(chat_with_reasoning(member), "m", endpoint_of(catalog), stream=False)
    assert json.loads(call.body)["messages"] == [{"role": "assistant", "content": "Yes.", **expected}]


def test_a_provider_that_does_not_know_stream_options_is_not_asked_for_usage() -> None:
    chat = decode_chat_request(f'{{"model":"x","messages":{MESSAGES}}}'.encode()).chat
    call = DIALECT.render_chat(chat, "m", endpoint_of("openai", include_usage="false"), stream=True)
    assert json.loads(call.body) == {"model": "m", "messages": json.loads(MESSAGES), "stream": True}


def test_there_is_no_counting_of_tokens() -> None:
    for ask in (
        lambda: DIALECT.render_count_tokens(Chat(), "m", endpoint_of("openai")),
        lambda: DIALECT.parse_count_tokens(b"{}", endpoint_of("openai")),
    ):
        with pytest.raises(GatewayError) as caught:
            ask()
        assert (caught.value.name, caught.value.metadata["feature"]) == ("UNSUPPORTED_FEATURE", "count_tokens")


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b'{"object":"list","data":[{"id":"b","object":"model"},{"id":"a"}]}', ["b", "a"]),
        (b'[{"id":"a"}]', ["a"]),
        (b'{"data":[]}', []),
        (b'{"data":[{"id":"a"},{"name":"x"},7,{"id":""},{"id":3}]}', ["a"]),
    ],
)
def test_models_are_listed(body: bytes, models: list[str]) -> None:
    call = DIALECT.render_list_models(endpoint_of("openai"))
    assert (call.method, call.path, call.body) == ("GET", "/models", b"")
    assert DIALECT.parse_list_models(body, endpoint_of("openai")) == models


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"data":{}}', b"7", b"\xff"])
def test_what_is_no_list_of_models_is_malformed(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        DIALECT.parse_list_models(body, endpoint_of("openai"))
    assert caught.value.name == "UPSTREAM_MALFORMED_REPLY"


def test_every_openai_shaped_row_has_only_options_that_the_dialect_knows() -> None:
    known = {"reasoning_member", "include_usage", "developer_role"}
    rows = [row for row in CATALOG.values() if row.dialect == DIALECT.name]
    assert all(row.options.keys() <= known for row in rows)
    assert {row.options.get("reasoning_member") for row in rows} <= {
        None, "reasoning_content", "reasoning", "reasoning_details", "thinking_blocks",
    }  # fmt: skip
