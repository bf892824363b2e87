"""Reasoning in an OpenAI-shaped message: four members of different vendors, one kind of part.

`reasoning_content` and `reasoning` are plain strings, `reasoning_details` and `thinking_blocks` lists of blocks. The
one rule: a part goes back into the member it came in, and where a list is present it is the truth and a plain string
beside it stays an untyped member.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra, unpack_extra
from trunkline.openai_json.members import take_nonempty

__all__ = [
    "REASONING_MEMBERS",
    "decode_block",
    "encode_detail",
    "encode_details",
    "encode_reasoning",
    "encode_thinking_blocks",
    "take_reasoning",
]

REASONING_MEMBERS: Final = ("reasoning_details", "thinking_blocks", "reasoning_content", "reasoning")
_LISTS: Final = REASONING_MEMBERS[:2]
_STRINGS: Final = REASONING_MEMBERS[2:]


def take_reasoning(members: dict[str, Any], message: pb.Message) -> None:
    """Move the reasoning of a message's JSON into parts. Whatever has another shape than a vendor's is left there."""
    for member in _LISTS:
        blocks = members.get(member)
        if type(blocks) is list and blocks and all(map(_is_block, blocks)):
            del members[member]
            for block in blocks:
                decode_block(block, member, message.parts.add().reasoning)
            return
    for member in _STRINGS:
        text = take_nonempty(members, member)
        if text:
            reasoning = message.parts.add().reasoning
            reasoning.text = text
            reasoning.member = member
            return


def decode_block(block: dict[str, Any], member: str, reasoning: pb.ReasoningPart) -> None:
    """Fill a part from one block of `reasoning_details` or `thinking_blocks`; `block` is used up."""
    reasoning.member = member
    kind = block.get("type")
    if member == "thinking_blocks":
        if kind == "redacted_thinking":
            reasoning.encrypted = take_nonempty(block, "data")
        elif kind == "thinking":
            reasoning.text = take_nonempty(block, "thinking")
            reasoning.signature = take_nonempty(block, "signature")
        known = _thinking_type(reasoning)
    else:
        if kind == "reasoning.encrypted":
            reasoning.encrypted = take_nonempty(block, "data")
        elif kind == "reasoning.summary":
            reasoning.is_summary = True
            reasoning.text = take_nonempty(block, "summary")
        elif kind == "reasoning.text":
            reasoning.text = take_nonempty(block, "text")
            reasoning.signature = take_nonempty(block, "signature")
        reasoning.id = take_nonempty(block, "id")
        known = _detail_type(reasoning)
    if kind == known:
        del block["type"]
    reasoning.extra_json = pack_extra(block)


def encode_reasoning(parts: Iterable[pb.Part], default_member: str | None, path: str) -> dict[str, Any]:
    """Return the members that a message's reasoning parts go back into.

    Parts that came in none go into `default_member`, or are left out when it is None.
    """
    grouped: dict[str, list[pb.ReasoningPart]] = {}
    for part in parts:
        if part.WhichOneof("part") == "reasoning":
            member = part.reasoning.member
            if member not in REASONING_MEMBERS:
                member = default_member or ""
            if member:
                grouped.setdefault(member, []).append(part.reasoning)
    members: dict[str, Any] = {}
    for member, blocks in grouped.items():
        if member == "reasoning_details":
            members[member] = encode_details(blocks, path)
        elif member == "thinking_blocks":
            members[member] = encode_thinking_blocks(blocks, path)
        else:
            text = "".join(block.text for block in blocks)
            if text:
                members[member] = text
    return {member: value for member, value in members.items() if value}


def encode_details(blocks: Iterable[pb.ReasoningPart], path: str) -> list[dict[str, Any]]:
    """Return the entries of `reasoning_details`, without an `index` unless the blocks brought one."""
    return [entry for block in blocks for entry in encode_detail(block, path)]


def encode_detail(block: pb.ReasoningPart, path: str) -> list[dict[str, Any]]:
    """Return the entries of one block: two when it has words and an encrypted form."""
    entry: dict[str, Any] = {"type": _detail_type(block)}
    if block.is_summary and block.text:
        entry["summary"] = block.text
    elif block.text:
        entry["text"] = block.text
    if block.signature:
        entry["signature"] = block.signature
    entries = [entry]
    if block.encrypted:
        if len(entry) > 1:
            entries.append({"type": "reasoning.encrypted"})
        entries[-1]["data"] = block.encrypted
    for each in entries:
        if block.id:
            each["id"] = block.id
    _restore(entry, block, path)
    return entries


def encode_thinking_blocks(blocks: Iterable[pb.ReasoningPart], path: str) -> list[dict[str, Any]]:
    """Return the entries of `thinking_blocks`."""
    entries: list[dict[str, Any]] = []
    for block in blocks:
        entry: dict[str, Any] = {"type": _thinking_type(block)}
        if block.encrypted and not (block.text or block.signature):
            entry["data"] = block.encrypted
        else:
            if block.text:
                entry["thinking"] = block.text
            if block.signature:
                entry["signature"] = block.signature
        _restore(entry, block, path)
        entries.append(entry)
    return entries


def _is_block(value: object) -> bool:
    return type(value) is dict and type(value.get("type")) is str


def _restore(entry: dict[str, Any], block: pb.ReasoningPart, path: str) -> None:
    if not block.extra_json:
        return
    extra = unpack_extra(block.extra_json, path)
    if "type" in extra:  # a kind of block that is not typed, or one without content
        entry["type"] = extra["type"]
    merge_extra(entry, block.extra_json, path)


def _detail_type(block: pb.ReasoningPart) -> str:
    if block.is_summary:
        return "reasoning.summary"
    if block.encrypted and not (block.text or block.signature):
        return "reasoning.encrypted"
    return "reasoning.text"


def _thinking_type(block: pb.ReasoningPart) -> str:
    return "redacted_thinking" if block.encrypted and not (block.text or block.signature) else "thinking"
