"""Chat completions as OpenAI's JSON: the public names of this direction pair, request, reply and stream.

Requests: the front decodes, the dialect encodes. Replies and chunks: the dialect decodes, the front encodes.
"""

from __future__ import annotations

from trunkline.openai_json.call_id import MintCallId, mint_call_id
from trunkline.openai_json.chat_reply_decoder import decode_chat_reply
from trunkline.openai_json.chat_reply_encoder import encode_chat_reply
from trunkline.openai_json.chat_request_decoder import DecodedChat, decode_chat_request
from trunkline.openai_json.chat_request_encoder import encode_chat_request
from trunkline.openai_json.chunk_decoder import ChunkDecoder
from trunkline.openai_json.chunk_encoder import ChunkEncoder
from trunkline.openai_json.usage import decode_usage, encode_usage

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
    "encode_usage",
    "mint_call_id",
]
