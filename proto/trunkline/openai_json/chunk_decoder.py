"""An upstream's stream of chat.completion.chunk objects becomes events in the grammar of chat_event.proto.

The rules beyond the grammar:
1. A choice's end is announced when nothing of it can follow: at `[DONE]`, at a chunk without choices, or at the end of
   the body. Some upstreams repeat the finish reason, or give one with every chunk.
2. Usage is replaced as it comes and reported at the end only, for some upstreams repeat it with every chunk.
3. A member that is not typed is reported once for each value it takes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.openai_json.call_id import MintCallId, mint_call_id
from trunkline.openai_json.chat_reply_decoder import is_error, malformed
from trunkline.openai_json.chunk_choice import ChoiceDecoder
from trunkline.openai_json.document import decode_upstream
from trunkline.openai_json.errors import error_from_object
from trunkline.openai_json.extras import pack_extra
from trunkline.openai_json.usage import decode_usage

__all__ = ["ChunkDecoder"]

_READ: Final = frozenset({"id", "object", "created", "model", "choices", "usage"})
_PADDING: Final = frozenset({"obfuscation", "p"})  # random text that hides the length of what it stands beside
_VARYING: Final = _READ | _PADDING - {"model"}
_VARYING_IN_CHOICE: Final = frozenset({"index", "delta", "finish_reason", "logprobs", "text", "message"})
_PLAIN_DELTAS: Final = frozenset({("content",), ("role", "content"), ("content", "role")})


class _UsageText(msgspec.Struct):
    usage: msgspec.Raw


class ChunkDecoder:
    """Reads one stream. `mint` makes the ids of tool calls that have none."""

    __slots__ = (
        "_choices",
        "_extra",
        "_is_complete",
        "_last",
        "_mint",
        "_reply_id",
        "_shape",
        "_started",
        "_usage",
        "_usage_data",
    )

    def __init__(self, *, mint: MintCallId = mint_call_id) -> None:
        self._mint = mint
        self._choices: dict[int, ChoiceDecoder] = {}
        self._extra: dict[str, Any] = {}
        self._started = False
        self._is_complete = False
        self._reply_id = ""
        self._usage: dict[str, Any] | None = None
        self._usage_data = b""
        self._last: tuple[dict[str, Any], dict[str, Any]] | None = None  # the last chunk that was read in full
        self._shape: _Shape | None = None  # made of it when it is first needed

    @property
    def is_complete(self) -> bool:
        """Whether `[DONE]` was read; nothing after it is."""
        return self._is_complete

    def decode(self, data: bytes) -> list[ChatEvent]:
        """Return the events of one frame's data, perhaps none.

        Raises the GatewayError of an error inside the stream, UPSTREAM_MALFORMED_REPLY for what is no chunk.
        """
        events: list[ChatEvent] = []
        if self._is_complete:
            return events
        if data.startswith(b"[DONE]"):
            self._complete(events)
            return events
        if not data or data.isspace():
            return events
        chunk = decode_upstream(data)
        if not self._decode_plain(chunk, events):
            self._decode_chunk(chunk, data, events)
        return events

    def end(self) -> list[ChatEvent]:
        """Return what was held back until the body's end. Raises STREAM_TRUNCATED when the answer was not complete."""
        events: list[ChatEvent] = []
        if self._is_complete:
            return events
        if not self._choices or not all(choice.has_finish for choice in self._choices.values()):
            raise _truncated("The upstream's stream ended before the answer did.")
        self._complete(events)
        return events

    def _decode_plain(self, chunk: Any, events: list[ChatEvent]) -> bool:
        """Take a chunk that brings a delta and nothing else, as nearly all do; False when it may bring more."""
        if type(chunk) is not dict or not self._has_shape_of_last(chunk):
            return False
        choice = chunk["choices"][0]
        delta, index = choice["delta"], choice["index"]
        state = self._choices.get(index) if type(index) is int else None
        if state is None or type(delta) is not dict:
            return False
        if state.text_part >= 0 and tuple(delta) in _PLAIN_DELTAS and type(delta["content"]) is str:
            if delta["content"]:
                state.add_text(delta["content"], events)
        else:
            state.decode_delta(delta, {}, events)
        return True

    def _has_shape_of_last(self, chunk: dict[str, Any]) -> bool:
        """Whether a chunk has the members of the one before, equal but for those that vary, and one choice."""
        shape = self._shape
        if shape is None:
            if self._last is None:
                return False
            shape = self._shape = _Shape(*self._last)
        if chunk.get("usage") is not None or tuple(chunk) != shape.members:
            return False
        choices = chunk["choices"]
        if type(choices) is not list or len(choices) != 1:
            return False
        choice = choices[0]
        if type(choice) is not dict or tuple(choice) != shape.choice_members:
            return False
        if choice.get("finish_reason") is not None or choice.get("logprobs") is not None:
            return False
        for name, value in shape.constants:
            if chunk[name] != value:
                return False
        for name, value in shape.choice_constants:  # noqa: SIM110 - all() over a generator costs as much as the rest
            if choice[name] != value:
                return False
        return True

    def _decode_chunk(self, chunk: Any, data: bytes, events: list[ChatEvent]) -> None:
        if is_error(chunk):
            raise error_from_object(chunk)
        if type(chunk) is not dict:
            raise malformed("a chunk that is no object")
        choices = chunk.get("choices")
        if choices is None:
            choices = []
        if type(choices) is not list:
            raise malformed("choices that are no list")
        self._read_groq(chunk)
        extra = self._news(chunk)
        if self._started:
            if extra:
                report = events_pb.ExtraReported(scope=events_pb.EXTRA_SCOPE_REPLY, extra_json=pack_extra(extra))
                events.append(ChatEvent(extra_reported=report))
        elif choices or chunk.get("id"):  # Azure's first chunk has neither
            self._start(chunk, events)
        usage = chunk.get("usage")
        if type(usage) is dict:
            self._usage, self._usage_data = usage, data
        for choice in choices:
            self._decode_choice(choice, events)
        if not choices and self._choices:
            self._finish_choices(events)
        self._remember(chunk, choices)

    def _start(self, chunk: dict[str, Any], events: list[ChatEvent]) -> None:
        started = events_pb.Started()
        for field in ("id", "model"):
            value = chunk.get(field)
            if type(value) is str:
                setattr(started, field, value)
        created = chunk.get("created")
        if isinstance(created, (int, float)) and 0 <= created < 2**63:
            started.created_seconds = int(created)
        extra = dict(self._extra)
        for field in ("service_tier", "system_fingerprint"):
            value = extra.get(field)
            if type(value) is str:
                setattr(started, field, extra.pop(field))
        started.extra_json = pack_extra(extra)
        self._reply_id = started.id
        self._started = True
        events.append(ChatEvent(started=started))

    def _news(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the untyped members that have a value they had not before, and remember them."""
        if _READ.issuperset(chunk):
            return {}
        known = self._extra
        news = {
            name: value
            for name, value in chunk.items()
            if name not in _READ and name not in _PADDING and value not in _NO_NEWS and known.get(name) != value
        }
        known.update(news)
        return news

    def _read_groq(self, chunk: dict[str, Any]) -> None:
        groq = chunk.get("x_groq")
        if type(groq) is dict:
            if groq.get("error"):
                raise error_from_object({"error": groq["error"]})
            if type(groq.get("usage")) is dict:
                self._usage, self._usage_data = groq["usage"], b""

    def _decode_choice(self, choice: Any, events: list[ChatEvent]) -> None:
        if type(choice) is not dict:
            raise malformed("a choice that is no object")
        index = choice.get("index")
        if index is None:
            index = 0
        if type(index) is not int or not 0 <= index < 2**31:
            raise malformed("a choice without a number")
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = ChoiceDecoder(index, self._reply_id, self._mint)
        state.decode(choice, events)

    def _finish_choices(self, events: list[ChatEvent]) -> None:
        """Finish the choices of which the upstream said why they ended, and report the usage so far."""
        for index in sorted(self._choices):
            choice = self._choices[index]
            if choice.has_finish:
                choice.finish(events)
        if self._usage is not None and all(choice.finished for choice in self._choices.values()):
            self._report_usage(events)

    def _report_usage(self, events: list[ChatEvent]) -> None:
        usage, self._usage = self._usage, None
        if usage is not None:
            raw = bytes(msgspec.json.decode(self._usage_data, type=_UsageText).usage) if self._usage_data else b""
            reported = events_pb.UsageReported(usage=decode_usage(usage, raw.decode()))
            events.append(ChatEvent(usage_reported=reported))

    def _complete(self, events: list[ChatEvent]) -> None:
        """Take the end that the upstream announced. A choice without a finish reason ends there as well."""
        if not self._choices:
            raise _truncated("The upstream's stream ended without an answer.")
        self._is_complete = True
        for index in sorted(self._choices):
            self._choices[index].finish(events)
        self._report_usage(events)

    def _remember(self, chunk: dict[str, Any], choices: list[Any]) -> None:
        self._shape = None
        is_usual = len(choices) == 1 and "delta" in choices[0] and "index" in choices[0]
        self._last = (chunk, choices[0]) if is_usual else None


class _Shape:
    """The members of a chunk with one choice, and those whose values are the same in most chunks of a stream."""

    __slots__ = ("choice_constants", "choice_members", "constants", "members")

    def __init__(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        self.members = tuple(chunk)
        self.choice_members = tuple(choice)
        self.constants = [(name, value) for name, value in chunk.items() if name not in _VARYING]
        self.choice_constants = [(name, value) for name, value in choice.items() if name not in _VARYING_IN_CHOICE]


_NO_NEWS: Final[tuple[Any, ...]] = (None, "", {}, [])


def _truncated(message: str) -> GatewayError:
    return GatewayError(reasons.ERROR_REASON_STREAM_TRUNCATED, message)
