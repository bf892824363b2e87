"""The conversation as Anthropic's `system` and `messages`.

Turns of the user and the model alternate on the wire: messages of one side that follow each other become one turn, a
turn's tool results stand before everything else in it. The model's own blocks go back in the order it wrote them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from services.providers.dialects.anthropic_models import ModelFacts
from services.providers.dialects.anthropic_notes import RenderNotes, invalid, object_of
from services.providers.dialects.anthropic_parts import (
    Block,
    raw_json,
    render_input_part,
    render_opaque,
    render_text,
)
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["Conversation", "Turn", "render_conversation"]

_MESSAGE_EXTRAS: Final = frozenset({"cache_control"})
_RESULT_EXTRAS: Final = frozenset({"cache_control", "is_error", "toolset_name"})
_CALL_EXTRAS: Final = frozenset({"cache_control", "caller", "toolset_name"})
_NOT_IN_AN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_SYSTEM_ROLES: Final = frozenset({pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER})
_OPENING: Final = "(The conversation begins with the assistant.)"


@dataclass(slots=True, kw_only=True)
class Turn:
    """One turn being put together."""

    role: str
    blocks: list[Block]
    is_text: bool
    """Whether it may go as a plain string: one text block, which the caller gave as a string."""

    def render(self) -> dict[str, Any]:
        """Return the turn for the wire."""
        if self.is_text and len(self.blocks) == 1 and self.blocks[0].keys() == {"type", "text"}:
            return {"role": self.role, "content": self.blocks[0]["text"]}
        return {"role": self.role, "content": self.blocks}


@dataclass(slots=True)
class _LegacyCalls:
    """Ids for calls of the deprecated `function_call` form, which has none: the next result answers the oldest one."""

    made: int = 0
    pending: list[str] = field(default_factory=list)

    def open(self) -> str:
        self.made += 1
        self.pending.append(f"function_{self.made}")
        return self.pending[-1]

    def answer(self) -> str:
        return self.pending.pop(0) if self.pending else f"function_{self.made}"


@dataclass(slots=True, kw_only=True)
class Conversation:
    """The rendered conversation."""

    system: Turn = field(default_factory=lambda: Turn(role="system", blocks=[], is_text=True))
    turns: list[Turn] = field(default_factory=list)

    @property
    def tool_names(self) -> list[str]:
        """The names of the tools that were called in it, each once."""
        calls = (block for turn in self.turns for block in turn.blocks if block["type"] == "tool_use")
        return list(dict.fromkeys(call["name"] for call in calls if isinstance(call["name"], str)))

    @property
    def is_tool_loop_without_thinking(self) -> bool:
        """Whether it ends in results of calls that the model made in a turn that begins without thinking."""
        if len(self.turns) < 2 or not any(block["type"] == "tool_result" for block in self.turns[-1].blocks):
            return False
        return self.turns[-2].blocks[0]["type"] not in {"thinking", "redacted_thinking"}


def render_conversation(chat: Chat, facts: ModelFacts, notes: RenderNotes) -> Conversation:
    """Return system prompt and turns. Raises INVALID_REQUEST and UNSUPPORTED_FEATURE."""
    conversation = Conversation()
    legacy = _LegacyCalls()
    for index, message in enumerate(chat.messages):
        where = f"messages[{index}]"
        if message.HasField("name") and message.role != pb.ROLE_FUNCTION:
            notes.warn(f"{where}.name", "the Messages API has no participants' names; left out")
        if message.role in _SYSTEM_ROLES:
            _add_system(conversation, message, _next_role(chat, index), facts, notes, where)
        elif message.role == pb.ROLE_USER:
            _add(conversation, "user", _render_user(message, notes, where), message)
        elif message.role == pb.ROLE_ASSISTANT:
            _add(conversation, "assistant", _render_assistant(message, notes, where, legacy), message)
        elif message.role in {pb.ROLE_TOOL, pb.ROLE_FUNCTION}:
            _add(conversation, "user", [_render_result(message, notes, where, legacy)], message)
        else:
            raise invalid(f"{where}.role is missing", f"{where}.role")
    _finish(conversation, notes)
    return conversation


def _next_role(chat: Chat, index: int) -> pb.Role.ValueType | None:
    """Return the role of the next message that is not a system message, None at the end."""
    return next((message.role for message in chat.messages[index + 1 :] if message.role not in _SYSTEM_ROLES), None)


def _add(conversation: Conversation, role: str, blocks: list[Block], message: pb.Message) -> None:
    if not blocks:
        return
    is_text = message.content_form == pb.CONTENT_FORM_STRING
    turns = conversation.turns
    if not turns or turns[-1].role != role:
        turns.append(Turn(role=role, blocks=blocks, is_text=is_text))
        return
    turn = turns[-1]
    turn.is_text = False
    turn.blocks.extend(blocks)
    if role == "user":
        turn.blocks.sort(key=lambda block: block["type"] != "tool_result")  # stable: results first, in their order


def _add_system(
    conversation: Conversation,
    message: pb.Message,
    next_role: pb.Role.ValueType | None,
    facts: ModelFacts,
    notes: RenderNotes,
    where: str,
) -> None:
    blocks: list[Block] = []
    for number, part in enumerate(message.parts):
        if part.WhichOneof("part") != "text":
            notes.refuse("system_media", "a system message can only hold text", param=f"{where}.content[{number}]")
        block = render_text(part.text, notes, f"{where}.content[{number}]")
        if block is not None:
            blocks.append(block)
    _mark_last(blocks, message, notes, where)
    turns = conversation.turns
    fits = next_role in {None, pb.ROLE_ASSISTANT} and bool(turns) and turns[-1].role in {"user", "system"}
    if turns and facts.system_turns and fits:
        _add(conversation, "system", blocks, message)
        return
    if turns and blocks:
        notes.warn(where, "a system message within the conversation; moved to the beginning")
    system = conversation.system
    system.is_text = system.is_text and not system.blocks and message.content_form == pb.CONTENT_FORM_STRING
    system.blocks.extend(blocks)


def _render_user(message: pb.Message, notes: RenderNotes, where: str) -> list[Block]:
    blocks: list[Block] = []
    for number, part in enumerate(message.parts):
        block = render_input_part(part, notes, f"{where}.content[{number}]")
        if block is not None:
            blocks.append(block)
    _mark_last(blocks, message, notes, where)
    return blocks


def _mark_last(blocks: list[Block], message: pb.Message, notes: RenderNotes, where: str) -> None:
    """Put a message's own cache_control on its last block, as callers with plain string content mean it."""
    extras = notes.take_extras(message.extra_json, _MESSAGE_EXTRAS, where)
    if extras and blocks:
        blocks[-1] = {**blocks[-1], **extras}


def _render_result(message: pb.Message, notes: RenderNotes, where: str, legacy: _LegacyCalls) -> Block:
    if message.role == pb.ROLE_FUNCTION:
        call_id = legacy.answer()
    elif message.tool_call_id:
        call_id = message.tool_call_id
    else:
        raise invalid(f"{where} does not say which call it answers", f"{where}.tool_call_id")
    block: Block = {"type": "tool_result", "tool_use_id": _clean_id(call_id)}
    rendered = (
        render_input_part(part, notes, f"{where}.content[{number}]") for number, part in enumerate(message.parts)
    )
    content = [inner for inner in rendered if inner is not None]
    is_text = len(content) == 1 and content[0].keys() == {"type", "text"}
    if is_text and message.content_form != pb.CONTENT_FORM_LIST:
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if message.HasField("tool_failed"):
        block["is_error"] = message.tool_failed
    return {**block, **notes.take_extras(message.extra_json, _RESULT_EXTRAS, where)}


def _render_assistant(message: pb.Message, notes: RenderNotes, where: str, legacy: _LegacyCalls) -> list[Block]:
    blocks: list[Block] = []
    for number, part in enumerate(message.parts):
        block = _render_said(part, notes, where, number, legacy)
        if block is not None:
            blocks.append(block)
    _mark_last(blocks, message, notes, where)
    return blocks


def _render_said(part: pb.Part, notes: RenderNotes, where: str, number: int, legacy: _LegacyCalls) -> Block | None:
    kind = part.WhichOneof("part")
    if kind == "text":
        return render_text(part.text, notes, f"{where}.content[{number}]")
    if kind == "reasoning":
        return _render_reasoning(part.reasoning, notes, where)
    if kind == "tool_call":
        return _render_call(part.tool_call, notes, where, legacy)
    if kind == "opaque":
        return render_opaque(part.opaque, notes, f"{where}.content[{number}]")
    if kind == "audio":
        said = part.audio.transcript.strip()
        notes.warn(f"{where}.audio", "sound in an answer; only its transcript was kept")
        return {"type": "text", "text": said} if said else None
    if kind == "image":
        notes.warn(f"{where}.content[{number}]", "an image in an answer; left out")
        return None
    return render_input_part(part, notes, f"{where}.content[{number}]")


def _render_reasoning(reasoning: pb.ReasoningPart, notes: RenderNotes, where: str) -> Block | None:
    if not _is_ours(reasoning, where):
        notes.warn(f"{where}.reasoning", "reasoning of another provider's model; left out")
        return None
    if reasoning.encrypted:
        return {"type": "redacted_thinking", "data": reasoning.encrypted}
    if reasoning.signature:
        return {"type": "thinking", "thinking": reasoning.text, "signature": reasoning.signature}
    notes.warn(f"{where}.reasoning", "reasoning without its signature cannot be sent back; left out")
    return None


def _is_ours(reasoning: pb.ReasoningPart, where: str) -> bool:
    """Whether sealed reasoning may be Claude's; a gateway's `reasoning_details` say whose form they are in."""
    if '"format"' not in reasoning.extra_json:
        return True
    form = object_of(reasoning.extra_json, f"{where}.reasoning").get("format", b"null")
    return bytes(form) in {b"null", b'"unknown"'} or bytes(form).startswith(b'"anthropic')


def _render_call(call: pb.ToolCall, notes: RenderNotes, where: str, legacy: _LegacyCalls) -> Block:
    param = f"{where}.tool_calls"
    if call.kind not in {"", "function"}:
        notes.refuse("custom_tools", f"the Messages API has no tools of kind {call.kind!r}", param=param)
    call_id = call.id or legacy.open()
    arguments = call.arguments_json.strip() or "{}"
    object_of(arguments, f"{param}.function.arguments")  # only checked: it goes in as the model wrote it
    extras = notes.take_extras(call.extra_json, _CALL_EXTRAS, param)
    block: Block = {"type": "tool_use", "id": _clean_id(call_id), "name": call.name, "input": raw_json(arguments)}
    return {**block, **extras}


def _clean_id(call_id: str) -> str:
    """Return an id in the characters the API allows; another provider's call may be in the history."""
    return _NOT_IN_AN_ID.sub("_", call_id)


def _finish(conversation: Conversation, notes: RenderNotes) -> None:
    turns = conversation.turns
    if not turns:
        if not conversation.system.blocks:
            raise invalid("messages holds no text, image or file", "messages")
        notes.warn("messages", "there is no user message; the system message was sent as one")
        moved, conversation.system = conversation.system, Conversation().system
        turns.append(Turn(role="user", blocks=moved.blocks, is_text=moved.is_text))
    elif turns[0].role == "assistant":
        notes.warn("messages", "the conversation begins with the assistant; a user's turn was put before it")
        turns.insert(0, Turn(role="user", blocks=[{"type": "text", "text": _OPENING}], is_text=True))
    last = turns[-1].blocks[-1]
    if turns[-1].role == "assistant" and last["type"] == "text" and last["text"] != last["text"].rstrip():
        notes.warn("messages", "blanks at the end of the answer to continue, which the API refuses; left out")
        turns[-1].blocks[-1] = {**last, "text": last["text"].rstrip()}
