"""Log probabilities of an answer's tokens, in both directions.

The one rule: what has another shape than OpenAI's is not read at all, and the caller keeps it as an untyped member.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra

__all__ = ["decode_logprobs", "encode_logprobs"]


def decode_logprobs(tokens: Any) -> list[pb.TokenLogprob] | None:
    """Return the tokens of a `content` or `refusal` list; None when it is not one of OpenAI's shape."""
    if type(tokens) is not list:
        return None
    decoded = []
    for token in tokens:
        entry = _decode_token(token)
        if entry is None:
            return None
        decoded.append(entry)
    return decoded


def _decode_token(token: Any) -> pb.TokenLogprob | None:
    if not _is_token(token):
        return None
    entry = pb.TokenLogprob(token=token["token"], logprob=token["logprob"])
    left = {name: value for name, value in token.items() if name not in _TYPED}
    raw = _decode_bytes(token.get("bytes"))
    if raw is not None:
        entry.raw_bytes = raw
    for other in token.get("top_logprobs") or ():
        if not _is_token(other):
            return None
        alternative = entry.top_logprobs.add(token=other["token"], logprob=other["logprob"])
        raw = _decode_bytes(other.get("bytes"))
        if raw is not None:
            alternative.raw_bytes = raw
    if left:
        entry.extra_json = pack_extra(left)
    return entry


_TYPED = frozenset({"token", "logprob", "bytes", "top_logprobs"})


def _is_token(value: Any) -> bool:
    if type(value) is not dict or type(value.get("token")) is not str or type(value.get("logprob")) not in (int, float):
        return False
    return type(value.get("top_logprobs")) in (list, type(None))


def _decode_bytes(values: Any) -> bytes | None:
    if type(values) is not list:
        return None
    try:
        return bytes(values)
    except (TypeError, ValueError):
        return None


def encode_logprobs(
    content: Sequence[pb.TokenLogprob], refusal: Sequence[pb.TokenLogprob], *, present: bool
) -> dict[str, Any] | None:
    """Return a choice's `logprobs`: null unless there are some or `present` says that the upstream reported them."""
    if not (present or content or refusal):
        return None
    return {
        "content": _encode_tokens(content) if content else None,
        "refusal": _encode_tokens(refusal) if refusal else None,
    }


def _encode_tokens(tokens: Iterable[pb.TokenLogprob]) -> list[dict[str, Any]]:
    encoded = []
    for token in tokens:
        value = _encode_one(token)
        value["top_logprobs"] = [_encode_one(other) for other in token.top_logprobs]
        merge_extra(value, token.extra_json, "logprobs")
        encoded.append(value)
    return encoded


def _encode_one(token: pb.TokenLogprob | pb.TopLogprob) -> dict[str, Any]:
    raw = list(token.raw_bytes) if token.HasField("raw_bytes") else None
    return {"token": token.token, "logprob": token.logprob, "bytes": raw}
