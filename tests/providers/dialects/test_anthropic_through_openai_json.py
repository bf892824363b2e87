"""A client that speaks only OpenAI's JSON keeps what Claude needs back: it returns the message it was given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.providers.dialects.anthropic_messages import DIALECT
from tests.providers.dialects.anthropic_rendering import ENDPOINT
from tests.providers.dialects.test_anthropic_cases import CASES
from trunkline.openai_json import decode_chat_request, encode_chat_reply

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


def _rendered(request: dict[str, Any]) -> dict[str, Any]:
    chat = decode_chat_request(json.dumps(request).encode()).chat
    call = DIALECT.render_chat(chat, "claude-sonnet-4-5", ENDPOINT, stream=False)
    assert [warning.param for warning in call.warnings] in ([], ["reasoning_effort"])
    body: dict[str, Any] = json.loads(call.body)
    return body


@pytest.mark.parametrize("case", ["thinking_and_tool", "redacted_thinking", "hidden_thinking", "parallel_tools"])
def test_an_answer_sent_back_in_openai_json_gives_its_blocks_again(case: str) -> None:
    upstream = json.loads((CASES / case / "answer.json").read_text())
    reply = DIALECT.parse_chat(json.dumps(upstream).encode(), ENDPOINT)
    message = json.loads(encode_chat_reply(reply))["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "12 °C"} for call in message.get("tool_calls", [])
    ]
    after = results or [{"role": "user", "content": "Go on"}]
    body = _rendered(
        {
            "model": "claude",
            "max_completion_tokens": 9000,
            "reasoning_effort": "low",
            "messages": [{"role": "user", "content": "Weather?"}, message, *after],
            "tools": TOOLS,
        }
    )
    sent = body["messages"][1]["content"]
    assert [_core(block) for block in sent] == [_core(block) for block in upstream["content"]]
    assert ("thinking" in body) is (case != "parallel_tools")  # whose calls came without thinking


def _core(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block without its caller, which says nothing where it is the model itself."""
    return block if block.get("caller") != {"type": "direct"} else {k: v for k, v in block.items() if k != "caller"}
