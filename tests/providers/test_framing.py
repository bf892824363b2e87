"""The SSE reader: the vectors of the wire notes at every split, the bounds, and that work stays linear."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.providers.dialects.base import Frame
from services.providers.framing import DECODERS, SseDecoder
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

A = Frame("", b'{"a":1}')
B = Frame("", b'{"b":2}')

# Bytes, the frames they stand for, and whether the last one never ended.
VECTORS = [
    pytest.param(b': ping\n\ndata: {"a":1}\n\n', [A], False, id="a comment first"),
    pytest.param('data: {"a":"é"}\r\n\r\n'.encode(), [Frame("", '{"a":"é"}'.encode())], False, id="CRLF and UTF-8"),
    pytest.param(b'data:{"a":1}\n\n', [A], False, id="no space"),
    pytest.param(b'data: {"a":\ndata: 1}\n\n', [Frame("", b'{"a":\n1}')], False, id="two data lines"),
    pytest.param(b'id: 1\ndata: {"a":1}\n\n: ping\n\n', [A], False, id="id, then a comment"),
    pytest.param(b'retry: 100\n\ndata: {"a":1}\n\n', [A], False, id="retry alone"),
    pytest.param(b"event: ping\n\n", [], False, id="event without data"),
    pytest.param(b'data: {"a":1}\n\ndata: {"b":2}\n', [A, B], True, id="last blank line missing"),
    pytest.param(b'data: {"a":1}\n\ndata: {"b":2}', [A, B], True, id="last line end missing"),
    pytest.param(b'data: {"a":1}\r\rdata: {"b":2}\r', [A, B], True, id="last blank line missing after CR"),
    pytest.param(b'\xef\xbb\xbfdata: {"a":1}\n\n', [A], False, id="byte order mark"),
    pytest.param(b'data: {"a":1}\r\rdata: {"b":2}\r\r', [A, B], False, id="CR"),
    pytest.param(b'data: {"a":1}\r\n\ndata: {"b":2}\n\r\n', [A, B], False, id="mixed line ends"),
    pytest.param(b'data: {"a":1}\n\n\n\n\ndata: {"b":2}\n\n\n', [A, B], False, id="more blank lines than needed"),
    pytest.param(b'\n\ndata: {"a":1}\n\n', [A], False, id="blank lines first"),
    pytest.param(
        b'event: x\ndata: {"a":1}\n\ndata: {"b":2}\n\n', [Frame("x", A.data), B], False, id="a name holds once"
    ),
    pytest.param(b'data: {"a":1}\nevent: x\n\n', [Frame("x", A.data)], False, id="the name after the data"),
    pytest.param(b'event:x\nid: 7\ndata: {"a":1}\nretry: 5\n\n', [Frame("x", A.data)], False, id="every field"),
    pytest.param(b'event: x\n\ndata: {"a":1}\n\n', [A], False, id="a name without data is forgotten"),
    pytest.param(b"data\n\n", [Frame("", b"")], False, id="a field without a colon"),
    pytest.param(b"data: a: b\n\n", [Frame("", b"a: b")], False, id="a colon in the value"),
    pytest.param(b"data:  two\n\n", [Frame("", b" two")], False, id="only one space is taken"),
    pytest.param(b'event: error\nunknown: 1\ndata: {"a":1}\n\n', [Frame("error", A.data)], False, id="unknown field"),
    pytest.param(b'datas: 1\n\n data: 1\n\ndata: {"a":1}\n\n', [A], False, id="names that only look alike"),
    pytest.param(b"\xefdata: 1\n\ndata: 2\n\n", [Frame("", b"2")], False, id="not quite a byte order mark"),
    pytest.param(b"event: \xff\ndata: 1\n\n", [Frame("�", b"1")], False, id="a name that is not UTF-8"),
    pytest.param(b": only\n: comments", [], False, id="comments to the end"),
    pytest.param(b"", [], False, id="nothing"),
]


def decode(chunks: list[bytes], **options: int) -> tuple[list[Frame], bool]:
    decoder = SseDecoder(**options)
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    frames += decoder.end()
    return frames, decoder.unterminated


@pytest.mark.parametrize(("data", "frames", "unterminated"), VECTORS)
def test_a_vector_gives_its_frames_at_every_split(data: bytes, frames: list[Frame], *, unterminated: bool) -> None:
    expected = (frames, unterminated)
    assert decode([data]) == expected
    assert decode([data[at : at + 1] for at in range(len(data))]) == expected
    for at in range(len(data) + 1):
        assert decode([data[:at], data[at:]]) == expected
        assert decode([data[:at], b"", data[at : at + 2], data[at + 2 :]]) == expected


def test_a_frame_comes_with_the_byte_that_completes_it_not_later() -> None:
    for blank in (b"\n", b"\r"):
        decoder = SseDecoder()
        assert decoder.feed(b"data: 1" + blank) == []
        assert decoder.feed(blank) == [Frame("", b"1")]
        assert decoder.feed(b"\n" if blank == b"\r" else b"") == []
        assert decoder.end() == []


_LINES = st.one_of(
    st.sampled_from([b"", b"data", b"data:", b"data: x", b"event: e", b": c", b"id: 1", b"\xef\xbb\xbfdata: y"]),
    st.binary(max_size=12).map(lambda value: b"data: " + value.translate(None, b"\r\n")),
    st.text(max_size=6).map(lambda value: b"data:" + value.encode().translate(None, b"\r\n")),
)
_STREAMS = st.lists(st.tuples(_LINES, st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\n"])), max_size=20).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


def _lines_of(data: bytes) -> list[bytes]:
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


def _reference(data: bytes) -> list[Frame]:
    """The standard's algorithm, written for clearness on the whole stream."""
    frames: list[Frame] = []
    event = ""
    values: list[bytes] = []
    for line in [*_lines_of(data), b""]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if values:
                frames.append(Frame(event, b"\n".join(values)))
            event, values = "", []
        elif name == b"data":
            values.append(value)
        elif name == b"event":
            event = value.decode(errors="replace")
    return frames


@given(_STREAMS, st.lists(st.integers(0, 300), max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_split_gives_the_frames_of_the_standard(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert decode(chunks)[0] == _reference(data)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 60), st.sampled_from([b"\n", b"\r\n", b"\r"]))
@settings(max_examples=200, deadline=None)
def test_the_bound_does_not_depend_on_the_split(limit: int, length: int, cut: int, end: bytes) -> None:
    line = b"data: " + b"x" * length
    data = line + end + end
    for chunks in ([data], [data[:cut], data[cut:]], [data[at : at + 1] for at in range(len(data))]):
        if len(line) <= limit:
            assert decode(chunks, max_event_bytes=limit)[0] == [Frame("", line[6:])]
        else:
            with pytest.raises(GatewayError) as caught:
                decode(chunks, max_event_bytes=limit)
            assert caught.value.reason == error_reason_pb2.ERROR_REASON_UPSTREAM_MALFORMED_REPLY


def test_many_short_lines_of_one_event_are_bounded_too() -> None:
    with pytest.raises(GatewayError, match="more than 100 bytes"):
        decode([b"data: x\n"] * 100, max_event_bytes=100)


def test_many_small_events_are_not_an_event_over_the_bound() -> None:
    assert decode([b"data: x\n\n" * 1000], max_event_bytes=100)[0] == [Frame("", b"x")] * 1000
    assert decode([b"data: x\r\n\r\n" * 1000], max_event_bytes=100)[0] == [Frame("", b"x")] * 1000


@pytest.mark.parametrize("size", [1, 1000, 65_536])
def test_a_huge_line_in_small_reads_costs_linear_time(size: int) -> None:
    length = 5_000_000 if size > 1 else 400_000
    data = b"data: " + b"x" * length + b"\n\ndata: after\n\n"
    began = time.perf_counter()
    frames, _ = decode([data[at : at + size] for at in range(0, len(data), size)])
    assert [len(frame.data) for frame in frames] == [length, 5]
    assert time.perf_counter() - began < 5  # A quadratic reader takes minutes.


def test_the_quick_way_is_taken_again_after_a_huge_event() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: " + b"x" * 10_000)
    assert len(decoder.feed(b"\n\ndata: 1\n\n")) == 2
    assert not decoder._by_line
    assert decoder.feed(b"data: 2\n\n") == [Frame("", b"2")]


def test_the_table_has_a_decoder_for_the_framing_that_dialects_name() -> None:
    assert DECODERS["sse"]().feed(b"data: 1\n\n") == [Frame("", b"1")]
