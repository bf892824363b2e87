"""OpenAI's JSON, both directions: requests, replies, streams and errors, with nothing lost on the way."""

from trunkline.openai_json.chat import (
    ChunkDecoder,
    ChunkEncoder,
    DecodedChat,
    MintCallId,
    decode_chat_reply,
    decode_chat_request,
    decode_usage,
    encode_chat_reply,
    encode_chat_request,
    encode_usage,
    mint_call_id,
)
from trunkline.openai_json.errors import encode_error, error_from_object, parse_openai_error

__all__ = [
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
