"""Images and files as content blocks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.dialects.anthropic_rendering import image, render, text, user
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb

CACHED = '{"cache_control":{"type":"ephemeral"}}'
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}


def file(**members: Any) -> pb.Part:
    return pb.Part(file=pb.FilePart(**members))


def png(data: str, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **more}


def plain(words: str) -> dict[str, Any]:
    return {"type": "text", "media_type": "text/plain", "data": words}


MEDIA: list[tuple[str, pb.Part, dict[str, Any]]] = [
    (
        "an image by address",
        image(url="https://h/i.png"),
        {"type": "image", "source": {"type": "url", "url": "https://h/i.png"}},
    ),
    ("an image in base64, not decoded", image(url="data:image/webp;base64,!!"), png("!!", "image/webp")),
    ("an image's parameters", image(url="data:image/png;charset=x;base64,eA=="), png("eA==")),
    ("an image's bytes", image(data=b"x", media_type="image/gif"), png("eA==", "image/gif")),
    ("an uploaded image", image(file_id="f1"), {"type": "image", "source": {"type": "file", "file_id": "f1"}}),
    ("an image with cache_control", image(data=b"x", extra_json=CACHED), {**png("eA=="), **EPHEMERAL}),
    ("a PDF by address", file(url="https://h/a.pdf"), document({"type": "url", "url": "https://h/a.pdf"})),
    (
        "a PDF with a name and settings",
        file(url="data:application/pdf;base64,JVBERg==", filename="a.pdf", extra_json='{"citations":{"enabled":true}}'),
        document(PDF, title="a.pdf", citations={"enabled": True}),
    ),
    ("a PDF's bytes", file(data=b"%PDF", media_type="application/pdf"), document(PDF)),
    ("a file that says nothing of itself", file(data=b"%PDF"), document(PDF)),
    ("an uploaded file", file(file_id="f2"), document({"type": "file", "file_id": "f2"})),
    ("a text file", file(data="né".encode(), media_type="text/markdown"), document(plain("né"))),
    ("a text file by its name", file(data=b"a,b", filename="x.csv"), document(plain("a,b"), title="x.csv")),
    ("JSON in base64", file(url="data:application/json;base64,e30="), document(plain("{}"))),
    ("an image sent as a file", file(url="data:image/png;base64,eA=="), png("eA==")),
    ("an image sent as a file, by its name", file(data=b"x", filename="a.JPG"), png("eA==", "image/jpeg")),
]


@pytest.mark.parametrize(("part", "block"), [pytest.param(p, b, id=name) for name, p, b in MEDIA])
def test_media_become_blocks(part: pb.Part, block: dict[str, Any]) -> None:
    rendered = render(user(text("see"), part))
    assert rendered.body["messages"][0]["content"][1] == block
    assert rendered.warned == ()


@pytest.mark.parametrize("part", [image(file_id="f"), file(file_id="f")])
def test_an_upload_asks_for_the_files_beta(part: pb.Part) -> None:
    assert render(user(part)).headers["anthropic-beta"] == "files-api-2025-04-14"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (image(), "INVALID_REQUEST"),
        (image(url="data:image/png,plain"), "INVALID_REQUEST"),
        (image(url="data:image/png;base64"), "INVALID_REQUEST"),
        (file(), "INVALID_REQUEST"),
        (file(filename="a.pdf"), "INVALID_REQUEST"),
        (file(url="data:text/plain;base64,%%%"), "INVALID_REQUEST"),
        (file(url="data:text/plain;base64,/w=="), "INVALID_REQUEST"),
        (file(data=b"x", media_type="video/mp4"), "UNSUPPORTED_FEATURE"),
    ],
)
def test_media_without_a_usable_source_are_refused_with_their_place(part: pb.Part, name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(user(text("see"), part))
    assert (caught.value.name, caught.value.param) == (name, "messages[0].content[1]")
