"""From the JSON of a whole chat completion to a ChatReply.

The one rule: tolerant of every shape seen in the wild, never inventing content. What has no typed place stays where it
was, in the `extra_json` of reply, choice, message or part.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.annotations import decode_annotation
from trunkline.openai_json.call_id import MintCallId, is_call_id, mint_call_id
from trunkline.openai_json.content_part import OPENAI_CHAT
from trunkline.openai_json.document import decode_upstream
from trunkline.openai_json.errors import error_from_object
from trunkline.openai_json.extras import pack_extra
from trunkline.openai_json.finish_reason import decode_finish_reason
from trunkline.openai_json.logprobs import decode_logprobs
from trunkline.openai_json.members import INT64_MAX, take_nonempty
from trunkline.openai_json.reasoning import take_reasoning
from trunkline.openai_json.tool_call import TEXT_MEMBERS, take_signature
from trunkline.openai_json.usage import decode_usage
from trunkline.reply import content_form_of

__all__ = ["decode_chat_reply", "fill_reply_audio", "is_error", "json_text", "malformed", "thinking_text"]


def decode_chat_reply(body: bytes, *, mint: MintCallId = mint_call_id) -> pb.ChatReply:
    """Return the answer in a 2xx body; `mint` makes the ids of tool calls that have none.

    Raises UPSTREAM_MALFORMED_REPLY for what is no chat completion, and the error for one inside the body.
    """
    obj = decode_upstream(body)
    if is_error(obj):
        raise error_from_object(obj)
    if type(obj) is not dict:
        raise malformed("no object")
    choices = obj.pop("choices", None)
    if type(choices) is not list or not choices:
        raise malformed("no choices")
    created = obj.pop("created", None)
    reply = pb.ChatReply(
        id=take_nonempty(obj, "id"),
        model=take_nonempty(obj, "model"),
        created_seconds=int(created) if type(created) in (int, float) and 0 <= created <= INT64_MAX else 0,
    )
    for position, choice in enumerate(choices):
        if type(choice) is not dict:
            raise malformed("a choice that is no object")
        _decode_choice(choice, position, reply, mint)
    _decode_reply_usage(obj, body, reply)
    for name in ("service_tier", "system_fingerprint"):
        value = take_nonempty(obj, name)
        if value:
            setattr(reply, name, value)
        else:
            obj.pop(name, None)
    for name in ("object", "id", "model"):
        obj.pop(name, None)
    reply.extra_json = pack_extra(obj)
    return reply


def is_error(obj: Any) -> bool:
    """Whether a JSON value that came with a 200 tells of a failure."""
    if type(obj) is list:
        return bool(obj) and is_error(obj[0])
    if type(obj) is not dict:
        return False
    if obj.get("error") or obj.get("object") == "error":
        return True
    return "choices" not in obj and ("message" in obj or "detail" in obj)


def malformed(what: str) -> GatewayError:
    """Return the error for an answer that is not of this wire format."""
    return GatewayError(
        reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY, f"The upstream's answer is no chat completion: {what}."
    )


class _Usage(msgspec.Struct):
    usage: msgspec.Raw


_decode_usage_text: Final = msgspec.json.Decoder(_Usage).decode


def _decode_reply_usage(obj: dict[str, Any], body: bytes, reply: pb.ChatReply) -> None:
    usage = obj.pop("usage", None)
    if type(usage) is dict:
        raw = bytes(_decode_usage_text(body).usage).decode()
        reply.usage.CopyFrom(decode_usage(usage, raw))
        return
    groq = obj.get("x_groq")
    if type(groq) is dict and type(groq.get("usage")) is dict:
        reply.usage.CopyFrom(decode_usage(groq["usage"]))


def _decode_choice(value: dict[str, Any], position: int, reply: pb.ChatReply, mint: MintCallId) -> None:
    index = value.pop("index", None)
    word = value.pop("finish_reason", None)
    choice = reply.choices.add(
        index=index if type(index) is int and 0 <= index < 2**31 else position,
        finish_reason=decode_finish_reason(word),
        raw_finish_reason=word if type(word) is str else "",
    )
    stop = take_nonempty(value, "stop_reason")
    if stop:
        choice.stop_sequence = stop
    message = value.pop("message", None)
    if type(message) is not dict:
        message = {}
    if _says_one_text(message):  # most answers; spares them 4 us
        answer = choice.message
        answer.role = pb.ROLE_ASSISTANT
        answer.content_form = pb.CONTENT_FORM_STRING
        answer.parts.add().text.text = message["content"]
    else:
        _decode_message(message, choice, reply.id, mint)
    _decode_choice_logprobs(value, choice)
    if "delta" in value and value["delta"] in ({}, {"role": "assistant", "content": ""}):  # Perplexity sends both
        del value["delta"]
    choice.extra_json = pack_extra(value)


def _says_one_text(message: dict[str, Any]) -> bool:
    """Whether a message is a string of content, and every other member it has says nothing and goes."""
    if type(message.get("content")) is not str:
        return False
    for name, member in message.items():
        if name == "content" or name == "role":
            continue
        # An `audio` that is {} says little, and yet is a part.
        if member or name not in _EMPTY_WHEN_UNUSED or name == "audio":
            return False
    return True


def _decode_message(value: dict[str, Any], choice: pb.Choice, reply_id: str, mint: MintCallId) -> None:
    message = choice.message
    message.role = pb.ROLE_ASSISTANT
    value.pop("role", None)
    take_reasoning(value, message)
    _decode_content(value.pop("content", None), message)
    refusal = take_nonempty(value, "refusal")
    if refusal:
        message.parts.add().refusal.text = refusal
    audio = value.get("audio")
    if type(audio) is dict:
        fill_reply_audio(value.pop("audio"), message.parts.add().audio)
    _decode_annotations(value, message)
    _decode_calls(value, choice, reply_id, mint)
    for name in _EMPTY_WHEN_UNUSED:
        if name in value and not value[name]:
            del value[name]
    message.content_form = content_form_of(message.parts)
    message.extra_json = pack_extra(value)


# Members that upstreams send with null, "" or [] when there is nothing to say.
_EMPTY_WHEN_UNUSED: Final = (
    "refusal",
    "audio",
    "annotations",
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking_blocks",
)


def _decode_content(content: Any, message: pb.Message) -> None:
    if type(content) is str:
        message.parts.add().text.text = content
    elif type(content) is list:
        for element in content:
            _decode_content_element(element, message)
    elif content is not None:  # an upstream's JSON mode that answers the value instead of its text
        message.parts.add().text.text = json_text(content)


def _decode_content_element(element: Any, message: pb.Message) -> None:
    if type(element) is str:
        message.parts.add().text.text = element
        return
    if type(element) is not dict:
        raise malformed("an element of content that is no object")
    kind = element.get("type")
    if kind == "text" and type(element.get("text")) is str:
        del element["type"]
        text = message.parts.add().text
        text.text = element.pop("text")
        text.extra_json = pack_extra(element)
    elif kind == "thinking":
        reasoning = message.parts.add().reasoning
        reasoning.text = thinking_text(element.get("thinking"))
        reasoning.signature = take_nonempty(element, "signature")
    else:
        opaque = message.parts.add().opaque
        opaque.dialect = OPENAI_CHAT
        opaque.type = kind if type(kind) is str else ""
        opaque.json = json_text(element)


def thinking_text(thinking: Any) -> str:
    """Return the words of a Mistral thinking chunk: a string, or a list of text chunks."""
    if type(thinking) is str:
        return thinking
    if type(thinking) is not list:
        return ""
    texts = (piece.get("text") for piece in thinking if type(piece) is dict)
    return "".join(text for text in texts if type(text) is str)


def json_text(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


def fill_reply_audio(value: dict[str, Any], audio: pb.AudioPart) -> None:
    """Fill a part from an answer's `audio`; `value` is used up."""
    audio_id = take_nonempty(value, "id")
    if audio_id:
        audio.id = audio_id
    data = take_nonempty(value, "data")
    if data:
        audio.data_base64 = data
    transcript = value.get("transcript")
    if type(transcript) is str:
        audio.transcript = value.pop("transcript")
    expires = value.get("expires_at")
    if type(expires) is int and 0 <= expires <= INT64_MAX:
        audio.expires_at_seconds = value.pop("expires_at")
    audio.extra_json = pack_extra(value)


def _decode_annotations(value: dict[str, Any], message: pb.Message) -> None:
    """Attach the citations to the answer's text; without a text they stay an untyped member."""
    annotations = value.get("annotations")
    text = next((part.text for part in message.parts if part.WhichOneof("part") == "text"), None)
    if type(annotations) is list and text is not None and all(type(each) is dict for each in annotations):
        text.annotations.extend(decode_annotation(each) for each in value.pop("annotations"))


def _decode_calls(value: dict[str, Any], choice: pb.Choice, reply_id: str, mint: MintCallId) -> None:
    calls = value.pop("tool_calls", None)
    if type(calls) is list:
        for position, call in enumerate(calls):
            if type(call) is not dict:
                raise malformed("a tool call that is no object")
            part = choice.message.parts.add().tool_call
            _decode_call(call, part)
            if not is_call_id(part.id):
                part.id = mint(reply_id, choice.index, position)
    legacy = value.get("function_call")
    if type(legacy) is dict and legacy.get("name"):  # some upstreams send one that is empty
        call = choice.message.parts.add().tool_call
        _decode_call({"type": "function", "function": value.pop("function_call")}, call)
        call.is_legacy_function_call = True
    elif type(legacy) is dict:
        del value["function_call"]


def _decode_call(value: dict[str, Any], call: pb.ToolCall) -> None:
    value.pop("index", None)
    call.id = take_nonempty(value, "id")
    value.pop("id", None)
    call.kind = take_nonempty(value, "type") or "function"
    text_member = TEXT_MEMBERS.get(call.kind)
    inner = value.get(call.kind)
    if text_member is not None and type(inner) is dict:
        call.name = take_nonempty(inner, "name")
        text = inner.pop(text_member, None)
        call.arguments_json = text if type(text) is str else "" if text is None else json_text(text)
        if not inner:
            del value[call.kind]
    if not call.arguments_json and call.kind == "function":
        call.arguments_json = "{}"
    call.signature = take_signature(value)
    call.extra_json = pack_extra(value)


def _decode_choice_logprobs(value: dict[str, Any], choice: pb.Choice) -> None:
    """Attach log probabilities to the pieces they belong to; what has no such piece stays an untyped member."""
    logprobs = value.get("logprobs")
    if type(logprobs) is not dict:
        value.pop("logprobs", None)
        return
    choice.has_logprobs = True
    for name, kind in (("content", "text"), ("refusal", "refusal")):
        part = next((part for part in choice.message.parts if part.WhichOneof("part") == kind), None)
        tokens = None if part is None else decode_logprobs(logprobs.get(name))
        if part is not None and tokens is not None:
            (part.text if kind == "text" else part.refusal).logprobs.extend(tokens)
            del logprobs[name]
        elif not logprobs.get(name):
            logprobs.pop(name, None)
    if not logprobs:
        del value["logprobs"]
