"""How many tokens a chat or an answer holds, by its size in bytes. Pure, fast, without a tokenizer.

The rule: four UTF-8 bytes of text are a token (in every script: a character of three bytes is about one); beside its
text a message costs 4 tokens, a tool 20 and the first of them 50 more, a tool call 16, the answer's opening 3. An image
costs 765, or 85 where low detail was asked; a sound or a file 1,000, for want of a better guess.

The error, on recorded answers of 26 providers that report usage: of chats without tools half are within 20 %, and four
in five between 0.6 and 1.5 times what was reported; with tools the median is 0.75, since some providers write hundreds
of tokens of their own around them. What a provider's own search or code execution reads is not in the chat and so not
in the estimate. Of answers the median is 0.9; reasoning that is not shown is not counted. So an estimated count is
always marked as one.
"""

from __future__ import annotations

from typing import Final

from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply, Part, ResponseFormat, Tool

__all__ = ["estimate_input", "estimate_output", "part_bytes", "text_bytes", "tokens_of_bytes"]

BYTES_PER_TOKEN: Final = 4
_TOKENS_PER_MESSAGE: Final = 4
_TOKENS_PER_TOOL: Final = 20
_TOKENS_OF_TOOLS: Final = 50
_BYTES_PER_TOOL_CALL: Final = 16 * BYTES_PER_TOKEN
_TOKENS_OF_REPLY_PRIMER: Final = 3
_TOKENS_OF_IMAGE: Final = 765
_TOKENS_OF_LOW_DETAIL_IMAGE: Final = 85
_TOKENS_OF_MEDIUM: Final = 1_000


def estimate_input(chat: Chat) -> int:
    """Return about how many tokens a provider would count for the chat's input; at least 1."""
    size = 0
    tokens = _TOKENS_OF_REPLY_PRIMER
    for message in chat.messages:
        tokens += _TOKENS_PER_MESSAGE
        if message.name:
            size += text_bytes(message.name)
        for part in message.parts:
            size += part_bytes(part)
            tokens += _medium_tokens(part)
    if chat.tools:
        tokens += _TOKENS_OF_TOOLS
    for tool in chat.tools:
        tokens += _TOKENS_PER_TOOL
        size += _tool_bytes(tool)
    if chat.HasField("response_format"):
        size += _format_bytes(chat.response_format)
    return tokens + tokens_of_bytes(size)


def estimate_output(reply: ChatReply) -> int:
    """Return about how many tokens a provider would count for the answer; 0 when it is empty."""
    return tokens_of_bytes(sum(part_bytes(part) for choice in reply.choices for part in choice.message.parts))


def tokens_of_bytes(size: int) -> int:
    """Return about how many tokens a text of so many UTF-8 bytes holds, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def text_bytes(text: str) -> int:
    """Return the length of a text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def part_bytes(part: Part) -> int:
    """Return the bytes that a model reads or writes for a part; 0 for pictures, sounds and files.

    A tool call counts as many more as its wrapping is worth.
    """
    kind = part.WhichOneof("part")
    if kind == "text":
        return text_bytes(part.text.text)
    if kind == "tool_call":
        call = part.tool_call
        return _BYTES_PER_TOOL_CALL + text_bytes(call.name) + text_bytes(call.arguments_json)
    if kind == "reasoning":
        return text_bytes(part.reasoning.text)
    if kind == "refusal":
        return text_bytes(part.refusal.text)
    if kind == "opaque":
        return text_bytes(part.opaque.json)
    if kind == "audio":
        return text_bytes(part.audio.transcript)
    return 0


def _medium_tokens(part: Part) -> int:
    kind = part.WhichOneof("part")
    if kind == "image":
        return _TOKENS_OF_LOW_DETAIL_IMAGE if part.image.detail == "low" else _TOKENS_OF_IMAGE
    return _TOKENS_OF_MEDIUM if kind in {"audio", "file"} else 0


def _tool_bytes(tool: Tool) -> int:
    kind = tool.WhichOneof("tool")
    if kind == "function":
        function: chat_pb2.FunctionTool = tool.function
        return text_bytes(function.name) + text_bytes(function.description) + text_bytes(function.parameters_json)
    return text_bytes(tool.custom_json) if kind == "custom_json" else text_bytes(tool.opaque_json)


def _format_bytes(response_format: ResponseFormat) -> int:
    if response_format.WhichOneof("format") != "json_schema":
        return 0
    return text_bytes(response_format.json_schema.name) + text_bytes(response_format.json_schema.schema_json)
