"""One element of a message's `content` list, in both directions: text, image, audio, file, refusal, and any other.

The one rule: media is never decoded. A URL stays a URL and base64 stays base64; only callers of the gRPC API, who give
bytes, have them encoded here. A string where the API wants an object (`"image_url": "https://…"`, which some upstreams
take) is marked by an empty string of that name in `extra_json`.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra, unpack_extra, verbatim
from trunkline.openai_json.members import join, missing, out_of_range, take_nonempty, take_string, wrong_type

__all__ = ["OPENAI_CHAT", "decode_content_part", "encode_content_part", "encode_sound"]

OPENAI_CHAT: Final = "openai_chat"
"""The dialect of content parts that this API carries without knowing them."""


def decode_content_part(value: Any, path: str, part: pb.Part) -> None:
    """Fill `part` from one element of a content list; `value` is used up. Raises INVALID_REQUEST naming the path."""
    if type(value) is not dict:
        raise wrong_type(path, "an object", value)
    kind = value.get("type")
    if type(kind) is not str:
        raise missing(f"{path}.type", "a string") if kind is None else wrong_type(f"{path}.type", "a string", kind)
    decode = _DECODERS.get(kind)
    if decode is None:
        part.opaque.dialect = OPENAI_CHAT
        part.opaque.type = kind
        part.opaque.json = msgspec.json.encode(value).decode()
        return
    del value["type"]
    decode(value, path, part)


def encode_content_part(part: pb.Part, path: str) -> dict[str, Any] | None:
    """Return the element of a content list a part stands for; None for a part that has no place in one.

    Raises INVALID_REQUEST for JSON that is none, UNSUPPORTED_FEATURE for what the API cannot say.
    """
    encode = _ENCODERS.get(part.WhichOneof("part") or "")
    return None if encode is None else encode(part, path)


def _decode_text(value: dict[str, Any], path: str, part: pb.Part) -> None:
    text = take_string(value, "text", path)
    if text is None:
        raise missing(f"{path}.text", "a string")
    part.text.text = text
    if value:
        part.text.extra_json = pack_extra(value)


def _decode_image(value: dict[str, Any], path: str, part: pb.Part) -> None:
    inner = value.get("image_url")
    image = part.image
    if type(inner) is str:
        image.url = inner
        value["image_url"] = ""
    else:
        at = f"{path}.image_url"
        inner = _inner(value, "image_url", path)
        url = take_string(inner, "url", at)
        if url is None:
            raise missing(f"{at}.url", "a string")
        image.url = url
        detail = take_string(inner, "detail", at)
        if detail is not None:
            image.detail = detail
        if not inner:
            del value["image_url"]
    image.extra_json = pack_extra(value)


def _decode_audio(value: dict[str, Any], path: str, part: pb.Part) -> None:
    inner = value.get("input_audio")
    audio = part.audio
    if type(inner) is str:
        audio.data_base64 = inner
        value["input_audio"] = ""
    else:
        at = f"{path}.input_audio"
        inner = _inner(value, "input_audio", path)
        data = take_string(inner, "data", at)
        if data is None:
            raise missing(f"{at}.data", "a string in base64")
        audio.data_base64 = data
        if inner.get("format") is not None and type(inner["format"]) is not str:
            raise wrong_type(f"{at}.format", "a string", inner["format"])
        audio.format = take_nonempty(inner, "format")
        if not inner:
            del value["input_audio"]
    audio.extra_json = pack_extra(value)


def _decode_file(value: dict[str, Any], path: str, part: pb.Part) -> None:
    at = f"{path}.file"
    inner = _inner(value, "file", path)
    file = part.file
    file.SetInParent()
    filename = take_string(inner, "filename", at)
    if filename is not None:
        file.filename = filename
    data = take_string(inner, "file_data", at)
    if data is not None:
        _decode_file_data(data, f"{at}.file_data", file)
    else:
        file_id = take_string(inner, "file_id", at)
        if file_id is not None:
            file.file_id = file_id
    if not inner:
        del value["file"]
    file.extra_json = pack_extra(value)


def _decode_file_data(data: str, path: str, file: pb.FilePart) -> None:
    if data.startswith(("data:", "http://", "https://")):
        file.url = data
        return
    try:
        content = binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError):
        raise out_of_range(path, "a data: URL, an http(s) URL or base64") from None
    if b64encode(content).decode() != data:
        raise out_of_range(path, "canonical base64")
    file.data = content


def _decode_refusal(value: dict[str, Any], path: str, part: pb.Part) -> None:
    text = take_string(value, "refusal", path)
    if text is None:
        raise missing(f"{path}.refusal", "a string")
    part.refusal.text = text
    part.refusal.in_content = True
    part.refusal.extra_json = pack_extra(value)


def _inner(value: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    inner = value.get(name)
    if type(inner) is dict:
        return inner
    at = join(path, name)
    raise missing(at, "an object") if inner is None else wrong_type(at, "an object", inner)


def _encode_text(part: pb.Part, path: str) -> dict[str, Any]:
    text = part.text
    value: dict[str, Any] = {"type": "text", "text": text.text}
    merge_extra(value, text.extra_json, f"{path}.text.extra_json")
    return value


def _encode_image(part: pb.Part, path: str) -> dict[str, Any]:
    image = part.image
    source = image.WhichOneof("source")
    if source == "file_id":
        message = "OpenAI's chat completions cannot refer to a stored image."
        raise GatewayError(
            reasons.ERROR_REASON_UNSUPPORTED_FEATURE,
            message,
            param=path,
            metadata={"feature": "image_file_id"},
        )
    if source == "data":
        if not image.media_type:
            raise missing(f"{path}.image.media_type", "the media type of the image's data")
        url = f"data:{image.media_type};base64,{b64encode(image.data).decode()}"
    else:
        url = image.url
    inner: dict[str, Any] = {"url": url}
    if image.HasField("detail"):
        inner["detail"] = image.detail
    return _with_extra("image_url", inner, "url", image.extra_json, f"{path}.image.extra_json")


def _encode_audio(part: pb.Part, path: str) -> dict[str, Any] | None:
    audio = part.audio
    data = encode_sound(audio)
    if data is None:
        return None
    inner: dict[str, Any] = {"data": data}
    if audio.format:
        inner["format"] = audio.format
    return _with_extra("input_audio", inner, "data", audio.extra_json, f"{path}.audio.extra_json")


def encode_sound(audio: pb.AudioPart) -> str | None:
    """Return a part's sound in base64, None when it has none."""
    source = audio.WhichOneof("source")
    if source is None:
        return None
    return audio.data_base64 if source == "data_base64" else b64encode(audio.data).decode()


def _encode_file(part: pb.Part, path: str) -> dict[str, Any]:
    file = part.file
    inner: dict[str, Any] = {}
    source = file.WhichOneof("source")
    if source == "file_id":
        inner["file_id"] = file.file_id
    elif source == "url":
        inner["file_data"] = file.url
    elif source == "data":
        content = b64encode(file.data).decode()
        inner["file_data"] = f"data:{file.media_type};base64,{content}" if file.media_type else content
    if file.HasField("filename"):
        inner["filename"] = file.filename
    return _with_extra("file", inner, "", file.extra_json, f"{path}.file.extra_json")


def _with_extra(kind: str, inner: dict[str, Any], bare: str, extra_json: str, path: str) -> dict[str, Any]:
    """Return the part with its untyped members; as `kind: inner[bare]` where the caller had written it so."""
    value: dict[str, Any] = {"type": kind, kind: inner}
    if extra_json:
        if bare and unpack_extra(extra_json, path).get(kind) == "":
            value[kind] = inner[bare]
        merge_extra(value, extra_json, path)
    return value


def _encode_refusal(part: pb.Part, path: str) -> dict[str, Any] | None:
    refusal = part.refusal
    if not refusal.in_content:
        return None
    value: dict[str, Any] = {"type": "refusal", "refusal": refusal.text}
    merge_extra(value, refusal.extra_json, f"{path}.refusal.extra_json")
    return value


def _encode_opaque(part: pb.Part, path: str) -> dict[str, Any] | None:
    if part.opaque.dialect != OPENAI_CHAT:
        return None
    document = verbatim(part.opaque.json, f"{path}.opaque.json", opening="{")
    return msgspec.json.decode(document, type=dict[str, Any])


_DECODERS: Final[dict[str, Callable[[dict[str, Any], str, pb.Part], None]]] = {
    "text": _decode_text,
    "image_url": _decode_image,
    "input_audio": _decode_audio,
    "file": _decode_file,
    "refusal": _decode_refusal,
}

_ENCODERS: Final[dict[str, Callable[[pb.Part, str], dict[str, Any] | None]]] = {
    "text": _encode_text,
    "image": _encode_image,
    "audio": _encode_audio,
    "file": _encode_file,
    "refusal": _encode_refusal,
    "opaque": _encode_opaque,
}
