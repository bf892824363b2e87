"""The short ways through the reply codec give what the long ways give."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trunkline.openai_json import chat_reply_decoder, chat_reply_encoder, decode_chat_reply, encode_chat_reply

_MESSAGES: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Hi"},
    {"content": ""},
    {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
    {"role": None, "content": "Hi", "annotations": None, "tool_calls": [], "function_call": None, "audio": None},
    {"role": "assistant", "content": "Hi", "function_call": {}, "reasoning": "", "reasoning_content": None},
    {"role": "assistant", "content": "Hi", "reasoning_details": [], "thinking_blocks": [], "audio": {}},
    {"role": "assistant", "content": "Hi", "vendor": None},
    {"role": "assistant", "content": "Hi", "vendor": {"a": [1]}},
    {"role": "assistant", "content": "Hi", "refusal": "No"},
    {"role": "assistant", "content": "Hi", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]},
    {"role": "assistant", "content": "Hi", "annotations": [{"type": "file"}], "tool_calls": False},
    {"role": "assistant", "content": None, "refusal": None},
]


@pytest.mark.parametrize("message", _MESSAGES, ids=str)
@pytest.mark.parametrize("logprobs", [None, {"content": [{"token": "Hi", "logprob": -1, "bytes": None}]}])
def test_a_message_of_one_text_is_read_and_written_like_any_other(
    message: dict[str, Any], logprobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    body = msgspec.json.encode({"id": "c", "model": "m", "choices": [choice]})
    quick = decode_chat_reply(body)
    written = encode_chat_reply(quick)
    monkeypatch.setattr(chat_reply_decoder, "_says_one_text", lambda message: False)
    assert decode_chat_reply(body) == quick
    parts = quick.choices[0].message
    monkeypatch.setattr(
        chat_reply_encoder, "_encode_text", lambda text, extra_json: chat_reply_encoder._encode_message(parts)
    )
    assert encode_chat_reply(quick) == written
