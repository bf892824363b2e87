"""Folds a chat stream's events into the reply they stand for.

Events are never changed and never kept: a folder copies what it needs, so the same objects may go to several readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import ChatReply
from trunkline.reply.grammar import GrammarChecker, GrammarError

__all__ = ["ReplyFolder", "content_form_of", "fold", "merge_json"]

_CONTENT_KINDS: Final = frozenset({"text", "image", "file", "opaque"})


def fold(events: Iterable[ChatEvent]) -> ChatReply:
    """Return the reply that a complete stream of events stands for. Raises GrammarError, also for a truncated one."""
    checker, folder = GrammarChecker(), ReplyFolder()
    for event in events:
        checker.check(event)
        folder.add(event)
    checker.end()
    return folder.reply()


class ReplyFolder:
    """Builds the reply of one stream while it passes; `reply()` may be asked at any time, also of a broken stream.

    It trusts the events' order: run a GrammarChecker beside it where they come from elsewhere. An event that names a
    part that never began raises GrammarError.
    """

    __slots__ = ("_choices", "_reply")

    def __init__(self) -> None:
        self._reply = ChatReply()
        self._choices: dict[int, _ChoiceFolder] = {}

    def add(self, event: ChatEvent) -> None:
        """Take the next event. An unknown (newer) kind is ignored."""
        kind = event.WhichOneof("event")
        if kind is None or kind == "part_finished":
            return
        if kind == "started":
            self._start(event.started)
        elif kind == "usage_reported":
            self._reply.usage.CopyFrom(event.usage_reported.usage)
        elif kind == "extra_reported" and event.extra_reported.scope == events_pb.EXTRA_SCOPE_REPLY:
            self._add_extra(event.extra_reported.extra_json)
        else:
            step = getattr(event, kind)
            choice = self._choices.get(step.choice)
            if choice is None:
                choice = self._choices[step.choice] = _ChoiceFolder(step.choice)
            choice.add(kind, step)

    def reply(self) -> ChatReply:
        """Return the answer so far, a new message each time. Its choices stand in the order of their numbers."""
        reply = ChatReply()
        reply.CopyFrom(self._reply)
        reply.choices.extend(self._choices[index].choice() for index in sorted(self._choices))
        return reply

    def _start(self, started: events_pb.Started) -> None:
        reply = self._reply
        reply.id = started.id
        reply.model = started.model
        reply.created_seconds = started.created_seconds
        if started.HasField("service_tier"):
            reply.service_tier = started.service_tier
        if started.HasField("system_fingerprint"):
            reply.system_fingerprint = started.system_fingerprint
        reply.warnings.extend(started.warnings)
        self._add_extra(started.extra_json)

    def _add_extra(self, extra_json: str) -> None:
        """Merge members of the reply; the two that are typed and may come late go to their fields."""
        if "service_tier" in extra_json or "system_fingerprint" in extra_json:
            members = msgspec.json.decode(extra_json, type=dict[str, msgspec.Raw])
            for name in ("service_tier", "system_fingerprint"):
                value = msgspec.json.decode(members[name]) if name in members else None
                if isinstance(value, str):
                    setattr(self._reply, name, value)
                    del members[name]
            extra_json = msgspec.json.encode(members).decode() if members else ""
        self._reply.extra_json = merge_json(self._reply.extra_json, extra_json)


class _ChoiceFolder:
    """Builds one choice."""

    __slots__ = ("_choice", "_parts")

    def __init__(self, index: int) -> None:
        self._choice = pb.Choice(index=index, message=pb.Message(role=pb.ROLE_ASSISTANT))
        self._parts: dict[int, _PartFolder] = {}

    def add(self, kind: str, step: object) -> None:
        if isinstance(step, events_pb.PartStarted):
            self._parts[step.part] = _PartFolder(step.begin)
        elif isinstance(step, events_pb.ChoiceFinished):
            self._choice.finish_reason = step.finish_reason
            self._choice.raw_finish_reason = step.raw_finish_reason
            if step.HasField("stop_sequence"):
                self._choice.stop_sequence = step.stop_sequence
        elif isinstance(step, events_pb.ExtraReported):
            if step.scope == events_pb.EXTRA_SCOPE_CHOICE:
                self._choice.extra_json = merge_json(self._choice.extra_json, step.extra_json)
            elif step.scope == events_pb.EXTRA_SCOPE_MESSAGE:
                message = self._choice.message
                message.extra_json = merge_json(message.extra_json, step.extra_json)
        else:
            part = self._parts.get(getattr(step, "part", -1))
            if part is None:
                raise GrammarError(3, f"{kind} for a part that never began")
            part.add(step)

    def choice(self) -> pb.Choice:
        choice = pb.Choice()
        choice.CopyFrom(self._choice)
        parts = [self._parts[number].part() for number in sorted(self._parts)]
        choice.message.parts.extend(parts)
        choice.message.content_form = content_form_of(parts)
        choice.has_logprobs = any(part.text.logprobs or part.refusal.logprobs for part in parts)
        return choice


class _PartFolder:
    """Builds one part. Pieces are joined once, when asked: appending to a message's string copies all of it."""

    __slots__ = ("_begin", "_pieces", "_sound")

    def __init__(self, begin: pb.Part) -> None:
        self._begin = pb.Part()
        self._begin.CopyFrom(begin)
        self._pieces: dict[str, list[str]] = {}
        self._sound: list[bytes] = []

    def add(self, delta: object) -> None:
        if isinstance(delta, events_pb.TextDelta):
            self._append("text", delta.text)
            if delta.logprobs:
                self._begin.text.logprobs.extend(delta.logprobs)
        elif isinstance(delta, events_pb.ReasoningDelta):
            self._append("text", delta.text)
            self._append("signature", delta.signature)
            self._append("encrypted", delta.encrypted)
        elif isinstance(delta, events_pb.ToolCallDelta):
            self._append("arguments_json", delta.arguments_json)
            if delta.signature:
                self._begin.tool_call.signature = delta.signature
        elif isinstance(delta, events_pb.RefusalDelta):
            self._append("text", delta.text)
            if delta.logprobs:
                self._begin.refusal.logprobs.extend(delta.logprobs)
        elif isinstance(delta, events_pb.AnnotationAdded):
            self._begin.text.annotations.append(delta.annotation)
        elif isinstance(delta, events_pb.AudioDelta):
            self._append("transcript", delta.transcript)
            if delta.data:
                self._sound.append(delta.data)
            if delta.HasField("expires_at_seconds"):
                self._begin.audio.expires_at_seconds = delta.expires_at_seconds

    def _append(self, member: str, piece: str) -> None:
        if piece:
            self._pieces.setdefault(member, []).append(piece)

    def part(self) -> pb.Part:
        part = pb.Part()
        part.CopyFrom(self._begin)
        for member, pieces in self._pieces.items():
            body = getattr(part, part.WhichOneof("part") or "text")
            setattr(body, member, getattr(body, member) + "".join(pieces))
        if self._sound:
            part.audio.data = part.audio.data + b"".join(self._sound)
        return part


def content_form_of(parts: Sequence[pb.Part]) -> pb.ContentForm.ValueType:
    """Return how an answer's `content` looks in OpenAI's JSON: null without content parts, a string for one text."""
    content = [part.WhichOneof("part") for part in parts]
    content = [kind for kind in content if kind in _CONTENT_KINDS]
    if not content and not any(part.refusal.in_content for part in parts):
        return pb.CONTENT_FORM_NULL
    return pb.CONTENT_FORM_STRING if content == ["text"] else pb.CONTENT_FORM_LIST


def merge_json(first: str, second: str) -> str:
    """Return the JSON object with the members of both, a member of `second` replacing its namesake; "" is no members.

    Values are copied verbatim. Raises msgspec.DecodeError when one is not a JSON object.
    """
    if not first or not second:
        return first or second
    members = msgspec.json.decode(first, type=dict[str, msgspec.Raw])
    members.update(msgspec.json.decode(second, type=dict[str, msgspec.Raw]))
    return msgspec.json.encode(members).decode()
