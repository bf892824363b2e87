"""Citations in an answer, in both directions: the elements of a message's `annotations`.

The one rule: only a `url_citation` has typed members; every other kind is carried whole. It also goes under another
name, as OpenAI's description of an answer knows that one kind only and clients with generated types refuse others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra
from trunkline.openai_json.members import INT64_MAX, INT64_MIN, take_nonempty

__all__ = ["PROVIDER_ANNOTATIONS", "decode_annotation", "encode_annotations"]

PROVIDER_ANNOTATIONS: Final = "provider_annotations"
"""The member of an answer's message for annotations of the provider's own kinds."""

_CITATION: Final = "url_citation"


def decode_annotation(value: dict[str, Any]) -> pb.Annotation:
    """Return one citation; `value` is used up."""
    annotation = pb.Annotation(type=take_nonempty(value, "type"))
    citation = value.get(_CITATION)
    if type(citation) is dict:
        annotation.url = take_nonempty(citation, "url")
        annotation.title = take_nonempty(citation, "title")
        for name in ("start_index", "end_index"):
            place = citation.get(name)
            if type(place) is int and INT64_MIN <= place <= INT64_MAX:
                setattr(annotation, name, citation.pop(name))
        if not citation:
            del value[_CITATION]
    annotation.extra_json = pack_extra(value)
    return annotation


def encode_annotations(annotations: Iterable[pb.Annotation]) -> dict[str, list[dict[str, Any]]]:
    """Return the members that hold an answer's citations: `annotations` always, even without any."""
    members: dict[str, list[dict[str, Any]]] = {"annotations": []}
    for annotation in annotations:
        value = _encode_annotation(annotation)
        name = "annotations" if value["type"] == _CITATION else PROVIDER_ANNOTATIONS
        members.setdefault(name, []).append(value)
    return members


def _encode_annotation(annotation: pb.Annotation) -> dict[str, Any]:
    """Return one citation. A place that is not known is 0 to 0, as the API requires one."""
    kind = annotation.type or _CITATION
    value: dict[str, Any] = {"type": kind}
    if kind == _CITATION:
        value[_CITATION] = {
            "url": annotation.url,
            "title": annotation.title,
            "start_index": annotation.start_index,
            "end_index": annotation.end_index,
        }
    merge_extra(value, annotation.extra_json, "annotations")
    return value
