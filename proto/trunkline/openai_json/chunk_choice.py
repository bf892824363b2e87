"""One choice of an upstream's stream: its deltas become parts and their deltas.

The one rule: a part opens with the first content of its kind and closes when another kind begins; tool calls stay open
until the choice ends, because their fragments may interleave.
"""

from __future__ import annotations

import binascii
from typing import Any, Final

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.openai_json.annotations import decode_annotation
from trunkline.openai_json.call_id import MintCallId
from trunkline.openai_json.chat_reply_decoder import json_text, malformed, thinking_text
from trunkline.openai_json.chunk_tool_calls import OpenCall, ToolCallAssembler, delta_of
from trunkline.openai_json.content_part import OPENAI_CHAT
from trunkline.openai_json.extras import pack_extra
from trunkline.openai_json.finish_reason import decode_finish_reason
from trunkline.openai_json.logprobs import decode_logprobs
from trunkline.openai_json.reasoning import decode_block

__all__ = ["ChoiceDecoder"]

_Events = list[ChatEvent]

_READ_IN_DELTA: Final = frozenset(
    {
        "role",
        "content",
        "refusal",
        "tool_calls",
        "function_call",
        "audio",
        "annotations",
        "reasoning_content",
        "reasoning",
        "reasoning_details",
        "thinking_blocks",
        "token_id",  # Together's number of each token: a client adding deltas up would sum them
    }
)
_READ_IN_CHOICE: Final = frozenset({"index", "delta", "message", "finish_reason", "logprobs", "stop_reason", "text"})


class ChoiceDecoder:
    """The state of one choice. `text_part` is the open text part's number, -1 when none is open."""

    __slots__ = (
        "_audio_rest",
        "_block",
        "_calls",
        "_extra",
        "_finish",
        "_index",
        "_legacy",
        "_message_extra",
        "_mint",
        "_next_part",
        "_open_kind",
        "_open_part",
        "_reply_id",
        "_stop",
        "finished",
        "text_part",
    )

    def __init__(self, index: int, reply_id: str, mint: MintCallId) -> None:
        self._index = index
        self._reply_id = reply_id
        self._mint = mint
        self._next_part = 0
        self._open_kind = ""
        self._open_part = -1
        self.text_part = -1
        self._block: tuple[object, ...] = ()
        self._audio_rest = ""
        self._calls = ToolCallAssembler()
        self._legacy: OpenCall | None = None
        self._finish: str | None = None
        self._stop: str | None = None
        self._extra: dict[str, Any] = {}
        self._message_extra: dict[str, Any] = {}
        self.finished = False

    @property
    def has_finish(self) -> bool:
        """Whether the upstream said why the choice ended, or it is finished already."""
        return self.finished or self._finish is not None

    def decode(self, choice: dict[str, Any], events: _Events) -> None:
        """Append the events of one element of `choices`. Raises GatewayError for a failure that it tells of."""
        delta = choice.get("delta")
        if type(delta) is not dict:
            delta = choice.get("message") if self._next_part == 0 and "delta" not in choice else None
        logprobs = choice.get("logprobs")
        logprobs = {name: value for name, value in logprobs.items() if value} if type(logprobs) is dict else {}
        if type(delta) is dict and delta:
            self.decode_delta(delta, logprobs, events)
        if logprobs:  # of a tool call's tokens, or of another shape
            choice = {**choice, "other_logprobs": logprobs}
        self._report_extra(events_pb.EXTRA_SCOPE_CHOICE, choice, _READ_IN_CHOICE, self._extra, events)
        stop = choice.get("stop_reason")
        if type(stop) is str and stop:
            self._stop = stop
        word = choice.get("finish_reason")
        if type(word) is str and word:
            decode_finish_reason(word)
            self._finish = word

    def finish(self, events: _Events) -> None:
        """Close what is open, and the choice. Only the last word the upstream gave counts."""
        if self.finished:
            return
        self._close(events)
        for call in self._calls.calls if self._legacy is None else [*self._calls.calls, self._legacy]:
            self._announce(call, events)
            if not call.pieces and call.begin.kind == "function":
                events.append(delta_of(self._index, call, "{}"))
            self._finish_part(call.part, events)
        finished = events_pb.ChoiceFinished(choice=self._index, finish_reason=decode_finish_reason(self._finish))
        finished.raw_finish_reason = self._finish or ""
        if self._stop is not None:
            finished.stop_sequence = self._stop
        events.append(ChatEvent(choice_finished=finished))
        self.finished = True

    def add_text(self, text: str, events: _Events, logprobs: list[pb.TokenLogprob] | None = None) -> None:
        """Append text, opening a part for it where none is open."""
        part = self.text_part
        if part < 0:
            part = self._open("text", pb.Part(text=pb.TextPart()), events)
            self.text_part = part
        event = ChatEvent()
        delta = event.text_delta
        delta.text = text
        if part:
            delta.part = part
        if self._index:
            delta.choice = self._index
        if logprobs:
            delta.logprobs.extend(logprobs)
        events.append(event)

    def decode_delta(self, delta: dict[str, Any], logprobs: dict[str, Any], events: _Events) -> None:
        """Append the events of a delta; what `logprobs` has for it is taken out of there."""
        before = self._next_part, len(events)
        self._decode_reasoning(delta, events)
        content = delta.get("content")
        if type(content) is str:
            tokens = _take_logprobs(logprobs, "content")
            if content or tokens:  # a token that is a piece of a character has no text yet
                self.add_text(content, events, tokens)
        elif type(content) is list:
            for element in content:
                self._decode_element(element, events)
        elif type(content) is dict:
            self.add_text(json_text(content), events)
        refusal = delta.get("refusal")
        if type(refusal) is str and refusal:
            self._add_refusal(refusal, _take_logprobs(logprobs, "refusal"), events)
        if delta.get("audio"):
            self._decode_audio(delta["audio"], events)
        if delta.get("annotations"):
            self._decode_annotations(delta["annotations"], events)
        if delta.get("tool_calls"):
            self._decode_calls(delta["tool_calls"], events)
        if delta.get("function_call"):
            self._decode_legacy_call(delta["function_call"], events)
        if self.finished and (self._next_part, len(events)) != before:
            raise malformed("content after the end of its choice")
        self._report_extra(events_pb.EXTRA_SCOPE_MESSAGE, delta, _READ_IN_DELTA, self._message_extra, events)

    def _decode_reasoning(self, delta: dict[str, Any], events: _Events) -> None:
        has_words = False
        for member in ("reasoning_details", "thinking_blocks"):
            blocks = delta.get(member)
            if type(blocks) is list and blocks:
                for block in blocks:
                    if type(block) is dict:
                        has_words |= self._add_block(block, member, events)
                break
        if has_words:
            return  # the plain string beside a list repeats its words
        for member in ("reasoning_content", "reasoning"):
            text = delta.get(member)
            if type(text) is str and text:
                self._add_reasoning((member,), pb.ReasoningPart(text=text, member=member), events)
                return

    def _add_block(self, block: dict[str, Any], member: str, events: _Events) -> bool:
        key = (member, block.get("type"), block.get("index"))
        piece = pb.ReasoningPart()
        decode_block(dict(block), member, piece)
        self._add_reasoning(key, piece, events)
        return bool(piece.text)

    def _add_reasoning(self, key: tuple[object, ...], piece: pb.ReasoningPart, events: _Events) -> None:
        """Append a piece to the block that `key` names, opening a part where another block or kind is open."""
        if self._open_kind != "reasoning" or self._block != key:
            begin = pb.ReasoningPart(member=piece.member, is_summary=piece.is_summary, id=piece.id)
            begin.extra_json = piece.extra_json
            self._open("reasoning", pb.Part(reasoning=begin), events)
            self._block = key
        if piece.text or piece.signature or piece.encrypted:
            delta = events_pb.ReasoningDelta(choice=self._index, part=self._open_part, text=piece.text)
            delta.signature, delta.encrypted = piece.signature, piece.encrypted
            events.append(ChatEvent(reasoning_delta=delta))

    def _decode_element(self, element: Any, events: _Events) -> None:
        """Take one element of a content list, as Mistral sends it."""
        if type(element) is not dict:
            if type(element) is str and element:
                self.add_text(element, events)
            return
        kind = element.get("type")
        if kind == "text":
            if element.get("text"):
                self.add_text(str(element["text"]), events)
        elif kind == "thinking":
            piece = pb.ReasoningPart(text=thinking_text(element.get("thinking")))
            signature = element.get("signature")
            piece.signature = signature if type(signature) is str else ""
            if piece.text or piece.signature:
                self._add_reasoning(("content",), piece, events)
        else:
            opaque = pb.OpaquePart(dialect=OPENAI_CHAT, type=kind if type(kind) is str else "", json=json_text(element))
            self._open("opaque", pb.Part(opaque=opaque), events)
            self._close(events)

    def _add_refusal(self, text: str, logprobs: list[pb.TokenLogprob] | None, events: _Events) -> None:
        if self._open_kind != "refusal":
            self._open("refusal", pb.Part(refusal=pb.RefusalPart()), events)
        delta = events_pb.RefusalDelta(choice=self._index, part=self._open_part, text=text, logprobs=logprobs)
        events.append(ChatEvent(refusal_delta=delta))

    def _decode_audio(self, audio: Any, events: _Events) -> None:
        if type(audio) is not dict:
            return
        if self._open_kind != "audio":
            audio_id = audio.get("id")
            begin = pb.AudioPart(id=audio_id if type(audio_id) is str else None)
            self._open("audio", pb.Part(audio=begin), events)
        delta = events_pb.AudioDelta(choice=self._index, part=self._open_part)
        if type(audio.get("data")) is str:
            delta.data = self._sound(audio["data"])
        if type(audio.get("transcript")) is str:
            delta.transcript = audio["transcript"]
        expires = audio.get("expires_at")
        if type(expires) is int and 0 <= expires < 2**63:
            delta.expires_at_seconds = expires
        events.append(ChatEvent(audio_delta=delta))

    def _sound(self, data: str) -> bytes:
        """Return the bytes of a piece of base64; what does not fill a group of four waits for the next piece."""
        data = self._audio_rest + data
        whole = len(data) - len(data) % 4
        self._audio_rest = data[whole:]
        try:
            return binascii.a2b_base64(data[:whole])
        except binascii.Error:
            raise malformed("sound that is not base64") from None

    def _decode_annotations(self, annotations: Any, events: _Events) -> None:
        if type(annotations) is not list:
            return
        for value in annotations:
            if type(value) is dict:
                if self.text_part < 0:
                    self.text_part = self._open("text", pb.Part(text=pb.TextPart()), events)
                added = events_pb.AnnotationAdded(choice=self._index, part=self.text_part)
                added.annotation.CopyFrom(decode_annotation(value))
                events.append(ChatEvent(annotation_added=added))

    def _decode_calls(self, fragments: Any, events: _Events) -> None:
        if type(fragments) is not list:
            raise malformed("tool_calls that are no list")
        self._calls.next_chunk()
        for fragment in fragments:
            if type(fragment) is not dict:
                raise malformed("a tool call that is no object")
            self._add_call(*self._calls.add(fragment), events)

    def _decode_legacy_call(self, fragment: Any, events: _Events) -> None:
        if type(fragment) is not dict:
            raise malformed("a function_call that is no object")
        if self._legacy is None and not (fragment.get("name") or fragment.get("arguments")):
            return  # some upstreams send one that is empty
        legacy, text, signature = ToolCallAssembler().add({"function": fragment})
        if self._legacy is None:
            legacy.begin.is_legacy_function_call = True
            self._legacy = legacy
        elif text:
            self._legacy.pieces.append(text)
        self._add_call(self._legacy, text, signature, events)

    def _add_call(self, call: OpenCall, text: str, signature: str, events: _Events) -> None:
        if call.part < 0:
            if signature:
                call.begin.signature = signature
            if not (call.begin.name or text):
                return  # its name is still to come
            self._announce(call, events)
            signature = ""
        if text or signature:
            events.append(delta_of(self._index, call, text, signature))

    def _announce(self, call: OpenCall, events: _Events) -> None:
        if call.part >= 0:
            return
        begin = call.begin
        if not begin.id and not begin.is_legacy_function_call:
            begin.id = self._mint(self._reply_id, self._index, self._calls.calls.index(call))
        call.part = self._start(pb.Part(tool_call=begin), events)

    def _report_extra(
        self,
        scope: events_pb.ExtraScope.ValueType,
        members: dict[str, Any],
        read: frozenset[str],
        known: dict[str, Any],
        events: _Events,
    ) -> None:
        """Report members that are not typed, once for each value they take; one that was never set is no news."""
        if read.issuperset(members):
            return
        news = {
            name: value
            for name, value in members.items()
            if name not in read and known.get(name) != value and value not in _NO_NEWS
        }
        if news:
            known.update(news)
            report = events_pb.ExtraReported(scope=scope, choice=self._index, extra_json=pack_extra(news))
            events.append(ChatEvent(extra_reported=report))

    def _open(self, kind: str, begin: pb.Part, events: _Events) -> int:
        self._close(events)
        self._open_kind = kind
        self._open_part = self._start(begin, events)
        return self._open_part

    def _start(self, begin: pb.Part, events: _Events) -> int:
        if begin.WhichOneof("part") == "tool_call":
            self._close(events)
        number = self._next_part
        self._next_part += 1
        events.append(ChatEvent(part_started=events_pb.PartStarted(choice=self._index, part=number, begin=begin)))
        return number

    def _close(self, events: _Events) -> None:
        if self._open_kind:
            self._finish_part(self._open_part, events)
            self._open_kind = ""
            self._open_part = self.text_part = -1

    def _finish_part(self, part: int, events: _Events) -> None:
        events.append(ChatEvent(part_finished=events_pb.PartFinished(choice=self._index, part=part)))


def _take_logprobs(logprobs: dict[str, Any], name: str) -> list[pb.TokenLogprob] | None:
    """Return the log probabilities of a list and remove it; None, leaving it, when it is not of OpenAI's shape."""
    if name not in logprobs:
        return None
    tokens = decode_logprobs(logprobs[name])
    if tokens is not None:
        del logprobs[name]
    return tokens


_NO_NEWS: Final[tuple[Any, ...]] = (None, {}, [])
