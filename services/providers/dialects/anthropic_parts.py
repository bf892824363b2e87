"""Parts of messages as content blocks.

Base64 passes as it is, never decoded, except for text files, which the API takes only as text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_notes import RenderNotes, invalid, object_of
from services.providers.dialects.anthropic_wire import DIALECT_NAME, Members
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["Block", "raw_json", "render_input_part", "render_opaque", "render_text"]

Block = dict[str, Any]
"""A content block; values may be msgspec.Raw."""

_TEXT_EXTRAS: Final = frozenset({"cache_control", "citations"})
_IMAGE_EXTRAS: Final = frozenset({"cache_control", "transformations"})
_DOCUMENT_EXTRAS: Final = frozenset({"cache_control", "citations", "context", "title"})
_FILES_BETA: Final = "files-api-2025-04-14"
_PDF: Final = "application/pdf"
_TEXT_TYPES: Final = frozenset({"application/json", "application/xml", "application/x-yaml", "application/yaml"})
_TYPE_OF_SUFFIX: Final = {
    "pdf": _PDF,
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "json": "application/json",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
# Blocks of the API that a caller may send verbatim, by hand or as an earlier answer had them.
_NATIVE_BLOCKS: Final = frozenset(
    {"document", "image", "search_result", "container_upload", "tool_reference", "thinking", "redacted_thinking"}
    | {"compaction", "fallback", "server_tool_use", "mcp_tool_use", "tool_result"}
)


def render_input_part(part: pb.Part, notes: RenderNotes, where: str) -> Block | None:
    """Return the block of one part of a user's or a tool's message; None for one that says nothing."""
    kind = part.WhichOneof("part")
    if kind == "text":
        return render_text(part.text, notes, where)
    if kind == "image":
        return _render_image(part.image, notes, where)
    if kind == "file":
        return _render_file(part.file, notes, where)
    if kind == "opaque":
        return render_opaque(part.opaque, notes, where)
    if kind == "refusal":
        return {"type": "text", "text": part.refusal.text} if part.refusal.text.strip() else None
    if kind == "audio":
        notes.refuse("audio_input", "the Messages API takes no audio", param=where)
    raise invalid(f"{where} is not a part of this role's messages", where)


def render_text(text: pb.TextPart, notes: RenderNotes, where: str) -> Block | None:
    """Return a text block, or None for blank text, which the API refuses."""
    if not text.text.strip():
        return None
    extras = notes.take_extras(text.extra_json, _TEXT_EXTRAS, where)
    block: Block = {"type": "text", "text": text.text, **extras}
    citations = _render_citations(text.annotations)
    if citations and "citations" not in block:
        block["citations"] = citations
    return block


def _render_citations(annotations: Iterable[pb.Annotation]) -> list[Block]:
    """Return the citations as the API gave them; annotations of other providers are left out.

    An annotation of this dialect is told by the members it keeps: what the API demands of a citation it can read again.
    """
    citations: list[Block] = []
    for annotation in annotations:
        members: Members = object_of(annotation.extra_json, "annotations") if annotation.extra_json else {}
        if annotation.type == "url_citation" and "citation_type" in members:
            kind = members.pop("citation_type")
            members.pop("url_citation", None)  # what OpenAI's JSON left of its own form on the way
            citations.append({"type": kind, "url": annotation.url, "title": annotation.title, **members})
        elif annotation.type != "url_citation" and "cited_text" in members:
            citations.append({"type": annotation.type, **members})
    return citations


def render_opaque(opaque: pb.OpaquePart, notes: RenderNotes, where: str) -> Block | None:
    """Return a block verbatim; None, with a warning, for one of another dialect."""
    is_native = opaque.type in _NATIVE_BLOCKS or opaque.type.endswith(("_tool_result", "_tool_use"))
    if opaque.dialect == DIALECT_NAME or (opaque.dialect == "openai_chat" and is_native):
        members = object_of(opaque.json, where)
        return {**members, "type": opaque.type}
    notes.warn(where, f"a part of type {opaque.type!r} that only {opaque.dialect} understands; left out")
    return None


def _render_image(image: pb.ImagePart, notes: RenderNotes, where: str) -> Block:
    if image.HasField("detail") and image.detail != "auto":
        notes.warn(f"{where}.detail", "the Messages API has no such setting; left out")
    extras = notes.take_extras(image.extra_json, _IMAGE_EXTRAS, where)
    kind = image.WhichOneof("source")
    if kind == "data":
        source = _base64_source(base64.b64encode(image.data).decode(), image.media_type or "image/png")
    elif kind == "file_id":
        notes.beta(_FILES_BETA)
        source = {"type": "file", "file_id": image.file_id}
    elif image.url.startswith("data:"):
        media_type, data = _split_data_url(image.url, where)
        source = _base64_source(data, media_type)
    elif image.url:
        source = {"type": "url", "url": image.url}
    else:
        raise invalid(f"{where} is an image without a source", where)
    return {"type": "image", "source": source, **extras}


def _render_file(file: pb.FilePart, notes: RenderNotes, where: str) -> Block:
    extras = notes.take_extras(file.extra_json, _DOCUMENT_EXTRAS, where)
    media_type = file.media_type or _TYPE_OF_SUFFIX.get(file.filename.rpartition(".")[2].lower(), "")
    kind = file.WhichOneof("source")
    if kind == "file_id":
        notes.beta(_FILES_BETA)
        source: Block = {"type": "file", "file_id": file.file_id}
    elif kind == "data":
        return _render_content(file, base64.b64encode(file.data).decode(), media_type, extras, notes, where)
    elif file.url.startswith("data:"):
        stated, data = _split_data_url(file.url, where)
        return _render_content(file, data, stated or media_type, extras, notes, where)
    elif file.url:
        source = {"type": "url", "url": file.url}
    else:
        raise invalid(f"{where} is a file without a source", where)
    return _document(file, source, extras)


def _render_content(
    file: pb.FilePart, data: str, media_type: str, extras: Members, notes: RenderNotes, where: str
) -> Block:
    if media_type.startswith("image/"):
        return {"type": "image", "source": _base64_source(data, media_type)} | {
            name: value for name, value in extras.items() if name in _IMAGE_EXTRAS
        }
    if media_type.startswith("text/") or media_type in _TEXT_TYPES:
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError):
            raise invalid(f"{where} is not text in base64", where) from None
        return _document(file, {"type": "text", "media_type": "text/plain", "data": text}, extras)
    if media_type not in {_PDF, "", "application/octet-stream"}:
        notes.refuse("file_input", f"the Messages API takes no files of type {media_type}", param=where)
    return _document(file, _base64_source(data, _PDF), extras)


def _document(file: pb.FilePart, source: Block, extras: Members) -> Block:
    title: Block = {"title": file.filename} if file.HasField("filename") and file.filename else {}
    return {"type": "document", "source": source, **title, **extras}


def _base64_source(data: str, media_type: str) -> Block:
    return {"type": "base64", "media_type": media_type, "data": data}


def _split_data_url(url: str, where: str) -> tuple[str, str]:
    """Return media type and base64 text of a data: URL."""
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, *parameters = head.split(";")
    if not comma or "base64" not in parameters:
        raise invalid(f"{where} is a data: URL that is not in base64", where)
    return media_type, data


def raw_json(text: str) -> msgspec.Raw:
    """Return checked JSON text for splicing into a body."""
    return msgspec.Raw(text.encode())
