"""A mock OpenAI-compatible upstream as cheap as Python allows: precomputed answers on a raw asyncio protocol.

The request chooses the answer: one JSON body; for a stream 100 chunks, one write each; for the model "hold" one
chunk and then silence until the client leaves (for the memory of open streams).
Run: python -m benchmarks.mock_upstream PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

CHUNKS = 100
_ID = '"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1750000000,"model":"mock"'
_ANSWER = "The quick brown fox jumps over the lazy dog. " * 10
UNARY_BODY = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1750000000,"model":"mock","choices":[{"index":0,'
    f'"message":{{"role":"assistant","content":"{_ANSWER}","refusal":null,"annotations":[]}},"logprobs":null,'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":100,"total_tokens":124,'
    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,'
    '"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default",'
    '"system_fingerprint":"fp_bench"}'
).encode()
_UNARY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(UNARY_BODY)
) + UNARY_BODY


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _chunk(delta: str, finish: str = "null") -> bytes:
    body = f'{{{_ID},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}'
    return _chunked(b"data: " + body.encode() + b"\n\n")


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST = _HEAD + _chunk('{"role":"assistant","content":""}')
_DELTA = _chunk('{"content":" token"}')
_USAGE = f'{{{_ID},"choices":[],"usage":{{"prompt_tokens":24,"completion_tokens":100,"total_tokens":124}}}}'
_LAST = (
    _chunk("{}", '"stop"')
    + _chunked(b"data: " + _USAGE.encode() + b"\n\n")
    + _chunked(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class MockUpstream(asyncio.Protocol):
    """One connection; requests are answered one after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is one without inheriting

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end].lower()
            start = head.find(b"content-length:")
            length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self._buffer) < head_end + 4 + length:
                return
            body = self._buffer[head_end + 4 : head_end + 4 + length]
            self._buffer = self._buffer[head_end + 4 + length :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        write = self._transport.write
        if b'"hold"' in body:
            write(_FIRST + _DELTA)
        elif b'"stream":true' in body or b'"stream": true' in body:
            write(_FIRST)
            for _ in range(CHUNKS):
                write(_DELTA)
            write(_LAST)
        else:
            write(_UNARY)


async def serve(port: int) -> None:
    """Serve on loopback until cancelled."""
    server = await asyncio.get_running_loop().create_server(MockUpstream, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
