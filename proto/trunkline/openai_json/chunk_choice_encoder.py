"""One choice of a client's stream: events of its parts become deltas.

The one rule: what a client adds up from the deltas is the message that a whole answer would have held.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.annotations import encode_annotations
from trunkline.openai_json.chat_reply_encoder import needs_details
from trunkline.openai_json.content_part import encode_content_part
from trunkline.openai_json.extras import merge_extra
from trunkline.openai_json.finish_reason import encode_finish_reason, native_finish_reason
from trunkline.openai_json.logprobs import encode_logprobs
from trunkline.openai_json.reasoning import encode_detail, encode_thinking_blocks
from trunkline.openai_json.tool_call import TEXT_MEMBERS, encode_tool_call, wrap_signature

__all__ = ["ChoiceEncoder", "ChoiceMembers"]

ChoiceMembers = dict[str, Any]
"""The JSON of one element of a chunk's `choices`."""

# OpenAI sends null content before these, "" before text.
_WITHOUT_CONTENT: Final = frozenset({"tool_call", "refusal", "audio"})


class ChoiceEncoder:
    """The state of one choice. `has_pending` is whether members wait for its next chunk."""

    __slots__ = (
        "_annotations",
        "_block_count",
        "_call_count",
        "_detail_count",
        "_extra",
        "_image_count",
        "_message_extra",
        "_parts",
        "_sent",
        "index",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self._parts: dict[int, _Part] = {}
        self._call_count = self._detail_count = self._block_count = self._image_count = 0
        self._annotations: list[pb.Annotation] = []
        self._extra: dict[str, Any] = {}
        self._message_extra: dict[str, Any] = {}
        self._sent: set[str] = set()

    @property
    def has_pending(self) -> bool:
        """Whether members wait for the choice's next chunk."""
        return bool(self._extra or self._message_extra)

    def open(self, first: str | None) -> ChoiceMembers:
        """Return the choice's first chunk; `first` is the kind of the part that begins it."""
        content = None if first in _WITHOUT_CONTENT else ""
        return self._delta({"role": "assistant", "content": content, "refusal": None})

    def encode(self, kind: str, step: Any) -> Iterator[ChoiceMembers]:
        """Yield the chunks of an event of this choice."""
        if kind == "part_started":
            yield from self._start(step)
        elif kind == "choice_finished":
            yield from self._finish(step)
        elif kind == "annotation_added":
            self._annotations.append(step.annotation)
        elif kind == "part_finished":
            part = self._parts.pop(step.part, None)
            if part is not None:
                yield from self._end(part)
        else:
            part = self._parts.get(step.part)
            if part is not None:
                yield from self._encode_delta(kind, part, step)

    def _encode_delta(self, kind: str, part: _Part, step: Any) -> Iterator[ChoiceMembers]:
        if kind == "text_delta":
            yield from self._text(step)
        elif kind == "reasoning_delta":
            yield from self._reasoning(part, step)
        elif kind == "tool_call_delta":
            yield from self._call(part, step)
        elif kind == "refusal_delta":
            yield from self._refusal(step)
        elif kind == "audio_delta":
            yield from self._audio(part, step)

    def add_extra(self, members: dict[str, Any], *, is_message: bool) -> None:
        """Keep untyped members for the next chunk.

        Clients add up what a delta repeats, so there only strings and objects may come again; the rest then stands
        beside the delta.
        """
        for name, value in members.items():
            if is_message and (name not in self._sent or type(value) in (str, dict)):
                self._message_extra[name] = value
            else:
                self._extra[name] = value

    def take_pending(self) -> ChoiceMembers | None:
        """Return a chunk with the members that came too late for any other, None when there are none."""
        return self._delta({}) if self.has_pending else None

    def _delta(self, delta: dict[str, Any], logprobs: Any = None, word: str | None = None) -> ChoiceMembers:
        if self._message_extra:
            for name, value in self._message_extra.items():
                delta.setdefault(name, value)
            self._sent.update(self._message_extra)
            self._message_extra = {}
        members: ChoiceMembers = {
            "index": self.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": word,
        }
        if self._extra:
            for name, value in self._extra.items():
                members.setdefault(name, value)
            self._extra = {}
        return members

    def _start(self, step: events_pb.PartStarted) -> Iterator[ChoiceMembers]:
        begin = step.begin
        kind = begin.WhichOneof("part")
        part = self._parts[step.part] = _Part(kind or "", begin)
        if kind == "text":
            self._annotations.extend(begin.text.annotations)
            yield from self._text(begin.text)
        elif kind == "refusal":
            yield from self._refusal(begin.refusal)
        elif kind == "reasoning":
            yield from self._reasoning(part, begin.reasoning)
        elif kind == "tool_call":
            yield self._delta(self._begin_call(part, begin.tool_call))
        elif kind == "audio":
            yield from self._begin_audio(part, begin.audio)
        elif kind == "image":
            image = encode_content_part(begin, "images") or {}
            yield self._delta({"images": [{**image, "index": self._image_count}]})
            self._image_count += 1

    def _text(self, text: pb.TextPart | events_pb.TextDelta) -> Iterator[ChoiceMembers]:
        if text.text or text.logprobs:
            yield self._delta({"content": text.text}, encode_logprobs(text.logprobs, (), present=False))

    def _refusal(self, refusal: pb.RefusalPart | events_pb.RefusalDelta) -> Iterator[ChoiceMembers]:
        if refusal.text or refusal.logprobs:
            yield self._delta({"refusal": refusal.text}, encode_logprobs((), refusal.logprobs, present=False))

    def _reasoning(self, part: _Part, piece: pb.ReasoningPart | events_pb.ReasoningDelta) -> Iterator[ChoiceMembers]:
        """Send words at once; a block's proof goes with the whole block, at its end, unless its list was streamed."""
        part.text.append(piece.text)
        part.signature += piece.signature
        part.encrypted += piece.encrypted
        begin = part.begin.reasoning
        delta: dict[str, Any] = {}
        if piece.text:
            delta["reasoning_content"] = piece.text
            if begin.member == "reasoning":
                delta["reasoning"] = piece.text
        if begin.member == "reasoning_details" and (piece.text or piece.signature or piece.encrypted):
            delta["reasoning_details"] = self._detail_pieces(part, piece)
        if delta:
            yield self._delta(delta)

    def _detail_pieces(self, part: _Part, piece: pb.ReasoningPart | events_pb.ReasoningDelta) -> list[dict[str, Any]]:
        begin = part.begin.reasoning
        block = pb.ReasoningPart(text=piece.text, signature=piece.signature, encrypted=piece.encrypted)
        block.is_summary = begin.is_summary
        is_first = part.number < 0
        if is_first:
            block.id, block.extra_json = begin.id, begin.extra_json
        entries = encode_detail(block, "reasoning_details")
        if is_first:
            part.number = self._detail_count
            self._detail_count += len(entries)
        return [{**entry, "index": part.number + place} for place, entry in enumerate(entries)]

    def _end(self, part: _Part) -> Iterator[ChoiceMembers]:
        if part.kind == "tool_call" and not part.has_arguments and part.begin.tool_call.kind in ("", "function"):
            yield self._delta(_call_delta(part, "{}"))
        elif part.kind == "audio" and part.sound:
            yield self._delta({"audio": {"data": b64encode(part.sound).decode()}})
        elif part.kind == "reasoning" and part.number < 0:
            delta = self._whole_block(part)
            if delta:
                yield self._delta(delta)

    def _whole_block(self, part: _Part) -> dict[str, Any]:
        """Return a block that holds more than words, complete, in the lists that carry such blocks."""
        begin = part.begin.reasoning
        block = pb.ReasoningPart(text="".join(part.text), signature=part.signature, encrypted=part.encrypted)
        block.id, block.is_summary, block.extra_json = begin.id, begin.is_summary, begin.extra_json
        delta: dict[str, Any] = {}
        if begin.member == "thinking_blocks":
            blocks = encode_thinking_blocks([block], "thinking_blocks")
            delta["thinking_blocks"] = [{**each, "index": self._block_count} for each in blocks]
            self._block_count += 1
            block.extra_json = ""
        if needs_details([block]) or begin.member == "reasoning_details":
            entries = encode_detail(block, "reasoning_details")
            number = self._detail_count
            delta["reasoning_details"] = [{**entry, "index": number + place} for place, entry in enumerate(entries)]
            self._detail_count += len(entries)
        return delta

    def _begin_call(self, part: _Part, call: pb.ToolCall) -> dict[str, Any]:
        part.has_arguments = bool(call.arguments_json)
        if call.is_legacy_function_call:
            return {"function_call": {"name": call.name, "arguments": call.arguments_json}}
        part.number = self._call_count
        self._call_count += 1
        return {"tool_calls": [{**encode_tool_call(call, "tool_calls"), "index": part.number}]}

    def _call(self, part: _Part, delta: events_pb.ToolCallDelta) -> Iterator[ChoiceMembers]:
        begin = part.begin.tool_call
        has_news = bool(delta.signature) and not begin.is_legacy_function_call and not begin.signature
        if delta.arguments_json:
            part.has_arguments = True
        elif not has_news:
            return
        more = _call_delta(part, delta.arguments_json)  # OpenAI's client wants the function's object in every fragment
        if has_news:
            more["tool_calls"][0]["extra_content"] = wrap_signature(delta.signature)
        yield self._delta(more)

    def _begin_audio(self, part: _Part, audio: pb.AudioPart) -> Iterator[ChoiceMembers]:
        value: dict[str, Any] = {"id": audio.id} if audio.HasField("id") else {}
        data = part.take_sound(audio.data) or audio.data_base64
        if data:
            value["data"] = data
        if audio.transcript:
            value["transcript"] = audio.transcript
        if audio.HasField("expires_at_seconds"):
            value["expires_at"] = audio.expires_at_seconds
        merge_extra(value, audio.extra_json, "audio.extra_json")
        if value:
            yield self._delta({"audio": value})

    def _audio(self, part: _Part, delta: events_pb.AudioDelta) -> Iterator[ChoiceMembers]:
        value: dict[str, Any] = {}
        data = part.take_sound(delta.data)
        if data:
            value["data"] = data
        if delta.transcript:
            value["transcript"] = delta.transcript
        if delta.HasField("expires_at_seconds"):
            value["expires_at"] = delta.expires_at_seconds
        if value:
            yield self._delta({"audio": value})

    def _finish(self, finished: events_pb.ChoiceFinished) -> Iterator[ChoiceMembers]:
        if self._annotations:
            yield self._delta({name: value for name, value in encode_annotations(self._annotations).items() if value})
            self._annotations = []
        word = encode_finish_reason(finished.finish_reason, has_calls=self._call_count > 0)
        members = self._delta({}, word=word)
        members.update(native_finish_reason(finished.raw_finish_reason, word))
        if finished.HasField("stop_sequence"):
            members["stop_reason"] = finished.stop_sequence
        yield members


class _Part:
    """An open part. `number` is its place in the list it is streamed into, -1 while it has none."""

    __slots__ = ("begin", "encrypted", "has_arguments", "kind", "number", "signature", "sound", "text")

    def __init__(self, kind: str, begin: pb.Part) -> None:
        self.kind = kind
        self.begin = begin
        self.number = -1
        self.has_arguments = False
        self.text: list[str] = []
        self.signature = ""
        self.encrypted = ""
        self.sound = b""

    def take_sound(self, data: bytes) -> str:
        """Return more sound in base64. A rest of fewer than three bytes waits, so that the pieces joined are base64."""
        self.sound += data
        whole = len(self.sound) - len(self.sound) % 3
        encoded = b64encode(self.sound[:whole]).decode()
        self.sound = self.sound[whole:]
        return encoded


def _call_delta(part: _Part, text: str) -> dict[str, Any]:
    call = part.begin.tool_call
    if call.is_legacy_function_call:
        return {"function_call": {"arguments": text}}
    kind = call.kind or "function"
    return {"tool_calls": [{"index": part.number, kind: {TEXT_MEMBERS.get(kind, "arguments"): text}}]}
