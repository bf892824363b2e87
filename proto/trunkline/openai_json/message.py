"""One message of a conversation, in both directions.

The one rule: JSON has a fixed order, reasoning, content, calls, and that is the order parts are decoded in; a message
whose parts alternate, which other wire formats write, is flattened into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.annotations import PROVIDER_ANNOTATIONS
from trunkline.openai_json.content_part import decode_content_part, encode_content_part, encode_sound
from trunkline.openai_json.extras import merge_extra, pack_extra
from trunkline.openai_json.members import missing, out_of_range, take_nonempty, take_string, wrong_type
from trunkline.openai_json.reasoning import REASONING_MEMBERS, encode_reasoning, take_reasoning
from trunkline.openai_json.tool_call import (
    decode_function_call,
    decode_tool_calls,
    encode_function_call,
    encode_tool_call,
)

__all__ = ["ROLES", "decode_message", "encode_audio", "encode_message"]

ROLES: Final[dict[str, pb.Role.ValueType]] = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_DEVELOPER,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
    "function": pb.ROLE_FUNCTION,
}
_ROLE_NAMES: Final = {role: name for name, role in ROLES.items()}
_ROLE_LIST: Final = ", ".join(f"'{name}'" for name in ROLES)

# Clients leave the content out of an assistant's message that only calls tools, and send null for an empty result.
_MAY_LACK_CONTENT: Final = frozenset({"assistant", "tool", "function"})
_MEMBERS_OF_ANSWERS: Final = frozenset({*REASONING_MEMBERS, "refusal", "audio", "tool_calls", "function_call"})


def decode_message(value: Any, path: str, message: pb.Message) -> None:
    """Fill `message` from its JSON; `value` is used up. Raises INVALID_REQUEST naming the member's path."""
    if type(value) is not dict:
        raise wrong_type(path, "an object", value)
    role = take_string(value, "role", path)
    if role is None:
        raise missing(f"{path}.role", f"one of {_ROLE_LIST}")
    number = ROLES.get(role)
    if number is None:
        raise out_of_range(f"{path}.role", f"one of {_ROLE_LIST}")
    message.role = number
    if len(value) == 1 and type(value.get("content")) is str and role != "tool":  # by far the most frequent shape
        message.content_form = pb.CONTENT_FORM_STRING
        message.parts.add().text.text = value["content"]
        return
    has_answer = not _MEMBERS_OF_ANSWERS.isdisjoint(value)
    if has_answer:
        take_reasoning(value, message)
    _decode_content(value, path, message, may_lack=role in _MAY_LACK_CONTENT)
    if has_answer:
        _decode_answer(value, path, message)
    name = take_string(value, "name", path)
    if name is not None:
        message.name = name
    call_id = take_string(value, "tool_call_id", path)
    if call_id is not None:
        message.tool_call_id = call_id
    elif role == "tool":
        raise missing(f"{path}.tool_call_id", "a string")
    message.extra_json = pack_extra(value)


def _decode_content(value: dict[str, Any], path: str, message: pb.Message, *, may_lack: bool) -> None:
    content = value.get("content")
    if type(content) is str:
        message.content_form = pb.CONTENT_FORM_STRING
        message.parts.add().text.text = content
    elif type(content) is list:
        message.content_form = pb.CONTENT_FORM_LIST
        for position, element in enumerate(content):
            decode_content_part(element, f"{path}.content[{position}]", message.parts.add())
    elif content is not None:
        raise wrong_type(f"{path}.content", "a string, an array of content parts or null", content)
    elif not may_lack:
        expected = "a string or an array of content parts"
        at = f"{path}.content"
        raise wrong_type(at, expected, None) if "content" in value else missing(at, expected)
    elif "content" in value:
        message.content_form = pb.CONTENT_FORM_NULL
    value.pop("content", None)


def _decode_answer(value: dict[str, Any], path: str, message: pb.Message) -> None:
    """Take the members that only answers of a model have. One that is null, or an empty list, stays as it is."""
    refusal = take_string(value, "refusal", path)
    if refusal is not None:
        message.parts.add().refusal.text = refusal
    if value.get("audio") is not None:
        _decode_audio(value.pop("audio"), f"{path}.audio", message.parts.add().audio)
    calls = value.get("tool_calls")
    if calls is not None and calls != []:
        decode_tool_calls(value.pop("tool_calls"), f"{path}.tool_calls", message)
    if value.get("function_call") is not None:
        call = message.parts.add().tool_call
        decode_function_call(value.pop("function_call"), f"{path}.function_call", call)


def _decode_audio(value: Any, path: str, audio: pb.AudioPart) -> None:
    if type(value) is not dict:
        raise wrong_type(path, "an object", value)
    audio_id = take_string(value, "id", path)
    if audio_id is None:
        raise missing(f"{path}.id", "a string")
    audio.id = audio_id
    data = take_nonempty(value, "data")
    if data:
        audio.data_base64 = data
    transcript = take_string(value, "transcript", path)
    if transcript is not None:
        audio.transcript = transcript
    expires = value.get("expires_at")
    if type(expires) is int and 0 <= expires < 2**63:
        audio.expires_at_seconds = value.pop("expires_at")
    audio.extra_json = pack_extra(value)


def encode_message(message: pb.Message, path: str, reasoning_member: str | None = None) -> dict[str, Any]:
    """Return the JSON of a message. Raises INVALID_REQUEST, UNSUPPORTED_FEATURE.

    `reasoning_member` is the member for reasoning that came in none, None to leave it out. `tool_failed` has no place
    in this API. Annotations and log probabilities of an answer are not sent back either.
    """
    role = _ROLE_NAMES.get(message.role)
    if role is None:
        raise missing(f"{path}.role", f"one of {_ROLE_LIST}")
    value: dict[str, Any] = {"role": role}
    text = _single_text(message)
    if text is not None:
        value["content"] = text
    else:
        _encode_parts(message, value, path, reasoning_member)
    if message.HasField("name"):
        value["name"] = message.name
    if message.HasField("tool_call_id"):
        value["tool_call_id"] = message.tool_call_id
    extra = message.extra_json
    if not extra:
        return value
    merge_extra(value, extra, f"{path}.extra_json")
    own = value.pop(PROVIDER_ANNOTATIONS, None)
    if type(own) is list:  # an answer sent back: the provider gets its annotations where it had put them
        value["annotations"] = [*(value.get("annotations") or ()), *own]
    return value


def _single_text(message: pb.Message) -> str | None:
    """Return the content of the most frequent kind of message, None for any other."""
    if message.content_form != pb.CONTENT_FORM_STRING:
        return None
    parts = message.parts
    if len(parts) != 1 or parts[0].WhichOneof("part") != "text":
        return None
    text = parts[0].text
    return None if text.extra_json else text.text


def _encode_parts(message: pb.Message, value: dict[str, Any], path: str, reasoning_member: str | None) -> None:
    at = f"{path}.parts"
    _encode_content(message, value, at)
    if any(part.WhichOneof("part") in _ANSWER_KINDS for part in message.parts):
        value.update(encode_reasoning(message.parts, reasoning_member, at))
        _encode_answer(message.parts, value, at)


_ANSWER_KINDS: Final = frozenset({"reasoning", "refusal", "audio", "tool_call"})


def _encode_content(message: pb.Message, value: dict[str, Any], path: str) -> None:
    elements = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("part") == "audio" and part.audio.HasField("id"):
            continue  # an answer's sound, which is a member of the message
        element = encode_content_part(part, f"{path}[{position}]")
        if element is not None:
            elements.append(element)
    form = message.content_form
    if not elements:
        if form == pb.CONTENT_FORM_LIST:
            value["content"] = []
        elif form == pb.CONTENT_FORM_NULL:
            value["content"] = None
        elif form == pb.CONTENT_FORM_STRING:
            value["content"] = ""
    elif form != pb.CONTENT_FORM_LIST and _is_plain(elements, joined=message.role == pb.ROLE_ASSISTANT):
        value["content"] = "".join(element["text"] for element in elements)
    else:
        value["content"] = elements


def _is_plain(elements: list[dict[str, Any]], *, joined: bool) -> bool:
    """Whether content can be one string: a single text, or an answer's texts that other pieces had stood between."""
    if len(elements) > 1 and not joined:
        return False
    return all(element.get("type") == "text" and len(element) == 2 for element in elements)


def _encode_answer(parts: Iterable[pb.Part], value: dict[str, Any], path: str) -> None:
    refusals, calls = [], []
    for part in parts:
        kind = part.WhichOneof("part")
        if kind == "refusal" and not part.refusal.in_content:
            refusals.append(part.refusal.text)
        elif kind == "audio" and part.audio.HasField("id"):
            value["audio"] = encode_audio(part.audio, path)
        elif kind == "tool_call" and not part.tool_call.is_legacy_function_call:
            calls.append(encode_tool_call(part.tool_call, path))
    if refusals:
        value["refusal"] = "".join(refusals)
    if calls:
        value["tool_calls"] = calls
    legacy = encode_function_call(parts, path)
    if legacy is not None:
        value["function_call"] = legacy


def encode_audio(audio: pb.AudioPart, path: str) -> dict[str, Any]:
    """Return the `audio` member of an answer, with what is known of it."""
    value: dict[str, Any] = {"id": audio.id}
    sound = encode_sound(audio)
    if sound is not None:
        value["data"] = sound
    if audio.HasField("transcript"):
        value["transcript"] = audio.transcript
    if audio.HasField("expires_at_seconds"):
        value["expires_at"] = audio.expires_at_seconds
    merge_extra(value, audio.extra_json, path)
    return value
