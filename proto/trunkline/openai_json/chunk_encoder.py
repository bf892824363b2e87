"""Events become the chat.completion.chunk objects of a client's stream.

The rules that OpenAI's own clients need, which add the deltas of a stream up:
1. role, and a call's id, type and name, come once; strings are concatenated and numbers summed.
2. The entries of a list in a delta carry `index`, counted from 0 without a gap.
3. Choices first appear in the order of their numbers.
4. With usage asked for, every chunk has `usage: null` and a last one, without choices, has it; else none has the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.openai_json.chat_reply_encoder import encode_warnings, service_tier_member
from trunkline.openai_json.chunk_choice_encoder import ChoiceEncoder, ChoiceMembers
from trunkline.openai_json.extras import unpack_extra
from trunkline.openai_json.usage import encode_usage

__all__ = ["ChunkEncoder"]

_encode = msgspec.json.encode
_TYPED: Final = frozenset({"id", "object", "created", "model", "choices", "usage"})


class ChunkEncoder:
    """Writes one client's stream; each element of what it returns is the JSON of one chunk, without framing.

    `model` replaces the upstream's name of the model. `fallback_id` and `fallback_created` (seconds since 1970) stand
    in where the upstream gave none.
    """

    __slots__ = (
        "_choices",
        "_extra",
        "_fallback_created",
        "_fallback_id",
        "_head",
        "_include_usage",
        "_model",
        "_tail",
        "_text_heads",
        "_text_tail",
        "_top",
        "_usage",
    )

    def __init__(
        self, *, include_usage: bool, model: str | None = None, fallback_id: str = "", fallback_created: int = 0
    ) -> None:
        self._model = model
        self._include_usage = include_usage
        self._fallback_id = fallback_id
        self._fallback_created = fallback_created
        self._choices: dict[int, ChoiceEncoder] = {}
        self._usage: TokenUsage | None = None
        self._top: dict[str, Any] = {}  # the members that are the same in every chunk
        self._head = b"{"  # the same as text, up to "choices"
        self._tail = b',"usage":null}' if include_usage else b"}"
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]' + self._tail
        self._text_heads: dict[int, bytes] = {}  # by choice that is ready for text: everything before the text
        self._extra: dict[str, Any] = {}  # members of the chunk that wait for one
        self._start(events_pb.Started())

    def encode(self, events: Iterable[ChatEvent]) -> list[bytes]:
        """Return the chunks that events stand for, perhaps none."""
        chunks: list[bytes] = []
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "text_delta":
                delta = event.text_delta
                head = self._text_heads.get(delta.choice)
                if head is not None and not delta.logprobs:
                    text = delta.text
                    if text:
                        chunks.append(head + _encode(text) + self._text_tail)
                    continue
            if kind is not None:
                self._encode_event(kind, event, chunks)
        return chunks

    def end(self) -> list[bytes]:
        """Return the last chunks: the usage for those who asked for it. To be called after a complete stream only."""
        chunks: list[bytes] = []
        for choice in self._choices.values():
            members = choice.take_pending()
            if members is not None:
                chunks.append(self._chunk(members))
        if self._include_usage and self._usage is not None:
            last = {**self._top, "choices": [], "usage": encode_usage(self._usage), **self._extra}
            self._extra = {}
            chunks.append(_encode(last))
        elif self._extra and self._choices:  # without a choice in it the chunk would surprise clients
            chunks.append(self._chunk({"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}))
        return chunks

    def _encode_event(self, kind: str, event: ChatEvent, chunks: list[bytes]) -> None:
        if kind == "started":
            self._start(event.started)
        elif kind == "usage_reported":
            self._usage = event.usage_reported.usage
        elif kind == "extra_reported":
            self._add_extra(event.extra_reported, chunks)
        else:
            step = getattr(event, kind)
            choice = self._choice(step.choice, kind, step, chunks)
            chunks.extend(self._chunk(members) for members in choice.encode(kind, step))
            self._refresh_text_head(choice)

    def _choice(self, index: int, kind: str, step: Any, chunks: list[bytes]) -> ChoiceEncoder:
        choice = self._choices.get(index)
        if choice is None:
            for number in range(len(self._choices), index + 1):
                choice = self._choices.setdefault(number, ChoiceEncoder(number))
                first = step.begin.WhichOneof("part") if number == index and kind == "part_started" else None
                chunks.append(self._chunk(choice.open(first)))
        return self._choices[index]

    def _refresh_text_head(self, choice: ChoiceEncoder) -> None:
        """Keep the fast path for text open where nothing waits to be put into the choice's next chunk."""
        if choice.has_pending or self._extra:
            self._text_heads.pop(choice.index, None)
        elif choice.index not in self._text_heads:
            self._text_heads[choice.index] = self._head + b'"choices":[{"index":%d,"delta":{"content":' % choice.index

    def _start(self, started: events_pb.Started) -> None:
        self._top = {
            "id": started.id or self._fallback_id,
            "object": "chat.completion.chunk",
            "created": started.created_seconds or self._fallback_created,
            "model": self._model or started.model,
        }
        if started.HasField("service_tier"):
            self._top.update(service_tier_member(started.service_tier))
        if started.HasField("system_fingerprint"):
            self._top["system_fingerprint"] = started.system_fingerprint
        self._head = _encode(self._top)[:-1] + b","
        self._text_heads = {}
        if started.warnings:
            self._extra["warnings"] = encode_warnings(started.warnings)
        if started.extra_json:
            self._add_members(unpack_extra(started.extra_json, "started.extra_json"))

    def _add_extra(self, report: events_pb.ExtraReported, chunks: list[bytes]) -> None:
        members = unpack_extra(report.extra_json, "extra_reported.extra_json")
        if report.scope == events_pb.EXTRA_SCOPE_REPLY:
            self._add_to_chunk(members)
            return
        choice = self._choice(report.choice, "", report, chunks)
        choice.add_extra(members, is_message=report.scope == events_pb.EXTRA_SCOPE_MESSAGE)
        self._refresh_text_head(choice)

    def _add_to_chunk(self, members: dict[str, Any]) -> None:
        """Keep members of the chunk for the next one; the two that every chunk has are in all that follow."""
        tier, fingerprint = members.pop("service_tier", None), members.pop("system_fingerprint", None)
        if type(tier) is str:
            self._top.update(service_tier_member(tier))
        if type(fingerprint) is str:
            self._top["system_fingerprint"] = fingerprint
        self._head = _encode(self._top)[:-1] + b","
        self._text_heads = {}
        self._add_members(members)

    def _add_members(self, members: dict[str, Any]) -> None:
        self._extra.update((name, value) for name, value in members.items() if name not in _TYPED)

    def _chunk(self, choice: ChoiceMembers) -> bytes:
        extra = b""
        if self._extra:
            extra = _encode(self._extra)[1:-1] + b","
            self._extra = {}
        return b'%b%b"choices":[%b]%b' % (self._head, extra, _encode(choice), self._tail)
