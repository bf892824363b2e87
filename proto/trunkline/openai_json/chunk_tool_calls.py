"""The tool calls of one choice of a stream: which fragment belongs to which call.

The one rule: a new call is one with a name whose id or index is new; everything else continues a call. Upstreams leave
out the index, give every call index 0, repeat the name, send no id or a new one with each fragment.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.openai_json.call_id import is_call_id
from trunkline.openai_json.extras import pack_extra
from trunkline.openai_json.members import take_nonempty
from trunkline.openai_json.tool_call import TEXT_MEMBERS, take_signature

__all__ = ["OpenCall", "ToolCallAssembler", "delta_of"]


class OpenCall:
    """A call that has begun. `part` is -1 until its name is known and it was announced."""

    __slots__ = ("begin", "call_id", "chunk", "index", "part", "pieces")

    def __init__(self, index: int | None, call_id: str, chunk: int, begin: pb.ToolCall) -> None:
        self.index = index
        self.call_id = call_id
        self.chunk = chunk
        self.begin = begin
        self.part = -1
        self.pieces: list[str] = []

    def looks_complete(self) -> bool:
        """Whether the arguments so far are one JSON value."""
        try:
            msgspec.json.decode("".join(self.pieces))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class ToolCallAssembler:
    """Sorts fragments into calls, in the order the calls first appear."""

    __slots__ = ("_chunk", "calls")

    def __init__(self) -> None:
        self.calls: list[OpenCall] = []
        self._chunk = 0

    def next_chunk(self) -> None:
        """Say that the fragments to come are of another chunk."""
        self._chunk += 1

    def add(self, fragment: dict[str, Any]) -> tuple[OpenCall, str, str]:
        """Return the fragment's call with the text and the signature it adds; `fragment` is used up."""
        kind = take_nonempty(fragment, "type") or _kind_of(fragment)
        inner = fragment.get(kind)
        name, text = "", ""
        if type(inner) is dict:
            name = take_nonempty(inner, "name")
            inner.pop("name", None)
            text = _text(inner.pop(TEXT_MEMBERS.get(kind, "arguments"), None))
            if not inner:
                del fragment[kind]
        index = fragment.pop("index", None)
        call_id = fragment.pop("id", None)
        signature = take_signature(fragment)
        call = self._find(index if type(index) is int else None, call_id if is_call_id(call_id) else "", name, text)
        if call is None:
            begin = pb.ToolCall(id=call_id if is_call_id(call_id) else "", name=name, kind=kind)
            begin.extra_json = pack_extra(fragment)
            call = OpenCall(index if type(index) is int else None, begin.id, self._chunk, begin)
            self.calls.append(call)
        elif call.part < 0:
            call.begin.name = call.begin.name or name
        call.chunk = self._chunk
        if text:
            call.pieces.append(text)
        return call, text, signature

    def _find(self, index: int | None, call_id: str, name: str, text: str) -> OpenCall | None:
        """Return the call that a fragment continues, None when it begins one."""
        if index is None:
            if call_id:
                return next((call for call in self.calls if call.call_id == call_id), None)
            known = self.calls[-1] if self.calls else None
        else:
            known = next((call for call in reversed(self.calls) if call.index == index), None)
        if known is None or not name:
            return known
        if call_id and call_id != known.call_id:
            return None
        if call_id or known.part < 0:
            return known
        # A name without an id, at a place that is taken: the name repeated, or a second whole call.
        if known.chunk == self._chunk or (known.looks_complete() and text):
            return None
        return known


def _kind_of(fragment: dict[str, Any]) -> str:
    return "custom" if "custom" in fragment and "function" not in fragment else "function"


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def delta_of(choice: int, call: OpenCall, text: str, signature: str = "") -> ChatEvent:
    """Return the event for more of a call."""
    delta = events_pb.ToolCallDelta(choice=choice, part=call.part, arguments_json=text, signature=signature)
    return ChatEvent(tool_call_delta=delta)
