"""A provider at an address: its dialect writes and reads, the transport carries. No retries, no choices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, TypeAlias

from services.providers.answers import Answer, StreamedAnswer
from services.providers.concealment import Concealment
from services.providers.dialects.base import ChatDialect, ChatStreamParser, Frame, HttpCall
from services.providers.endpoint import Endpoint
from services.providers.features import FeatureCheck
from services.providers.framing import DECODERS, FrameDecoder
from services.providers.transport import Upstream
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply
from trunkline.reply import unfold

__all__ = ["DialectProvider"]

_Warnings: TypeAlias = tuple[chat_pb2.Warning, ...]
_MALFORMED: Final = error_reason_pb2.ERROR_REASON_UPSTREAM_MALFORMED_REPLY


class DialectProvider:
    """A provider; see `Provider`."""

    def __init__(self, endpoint: Endpoint, dialect: ChatDialect, upstream: Upstream, concealment: Concealment) -> None:
        self._endpoint = endpoint
        self._dialect = dialect
        self._upstream = upstream
        self._concealment = concealment
        self._features = FeatureCheck(endpoint.name, endpoint.capabilities)
        self._open_decoder: Callable[[], FrameDecoder] = DECODERS[dialect.framing]

    async def complete_chat(self, chat: Chat, model: str, *, deadline: float | None) -> ChatReply:
        """Return the answer in one piece. Raises GatewayError."""
        self._features.check(chat)
        call = self._dialect.render_chat(chat, model, self._endpoint, stream=False)
        with self._concealment:
            reply = self._dialect.parse_chat(await self._ask(call, deadline), self._endpoint)
        if call.warnings:
            reply.warnings.extend(call.warnings)
        return reply

    async def stream_chat(
        self, chat: Chat, model: str, *, deadline: float | None
    ) -> AsyncGenerator[list[ChatEvent], None]:
        """Yield the events of the answer, one list for each read that completed any. Raises GatewayError."""
        self._features.check(chat)
        call = self._dialect.render_chat(chat, model, self._endpoint, stream=True)
        warnings, opening = call.warnings, self._upstream.stream(call, deadline=deadline)
        del call  # A long stream must not hold on to its request, which may be megabytes of images.
        with self._concealment:
            async with opening as answer:
                if answer.status >= 300:
                    whole = Answer(status=answer.status, headers=answer.headers, body=await answer.read_all())
                    raise self._error_of(whole)
                data = await answer.read()
                if _is_whole_reply(answer, data):
                    yield await self._unfolded(answer, data, warnings)
                    return
                reader = _StreamReader(self._open_decoder(), self._dialect.open_stream(self._endpoint), warnings)
                while data:
                    events = reader.read(data)
                    if events:
                        yield events
                    if reader.failure is not None:
                        raise reader.failure
                    if reader.parser.is_complete:
                        answer.finish()
                        return
                    data = await answer.read()
                events = reader.end()
                if events:
                    yield events
                if reader.failure is not None:
                    raise reader.failure

    async def count_tokens(self, chat: Chat, model: str, *, deadline: float | None) -> int:
        """Return how many tokens the chat's input has. Raises GatewayError."""
        if not self._endpoint.supports("count_tokens"):
            raise self._features.refusal("count_tokens")
        self._features.check(chat)
        call = self._dialect.render_count_tokens(chat, model, self._endpoint)
        with self._concealment:
            return self._dialect.parse_count_tokens(await self._ask(call, deadline), self._endpoint)

    async def list_models(self, *, deadline: float | None) -> list[str]:
        """Return the names of the provider's models. Raises GatewayError."""
        if not self._endpoint.supports("list_models"):
            raise self._features.refusal("list_models")
        call = self._dialect.render_list_models(self._endpoint)
        with self._concealment:
            return self._dialect.parse_list_models(await self._ask(call, deadline), self._endpoint)

    async def _ask(self, call: HttpCall, deadline: float | None) -> bytes:
        """Return the body of a 2xx answer; raise for any other."""
        answer = await self._upstream.request(call, deadline=deadline)
        if answer.status >= 300:
            raise self._error_of(answer)
        if _is_html(answer):
            raise self._html(answer)
        return answer.body

    async def _unfolded(self, answer: StreamedAnswer, begin: bytes, warnings: _Warnings) -> list[ChatEvent]:
        """Return the events of an answer that came in one piece though a stream was asked for."""
        if _is_html(answer):
            raise self._html(answer)
        reply = self._dialect.parse_chat(begin + await answer.read_all(), self._endpoint)
        reply.warnings.extend(warnings)
        return unfold(reply)

    def _error_of(self, answer: Answer) -> GatewayError:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        error = self._dialect.parse_error(answer.status, headers, answer.body, self._endpoint)
        error.metadata.setdefault("upstream_status", str(answer.status))
        return error

    def _html(self, answer: Answer | StreamedAnswer) -> GatewayError:
        return GatewayError(
            _MALFORMED,
            f"The provider {self._endpoint.name} answered with a web page; is its base URL right?",
            metadata={"upstream_status": str(answer.status)},
        )


class _StreamReader:
    """From the bytes of a stream to events. A failure is kept, so that what came before it is still forwarded."""

    __slots__ = ("_decoder", "_warnings", "failure", "parser")

    def __init__(self, decoder: FrameDecoder, parser: ChatStreamParser, warnings: _Warnings) -> None:
        self._decoder = decoder
        self._warnings = warnings
        self.parser = parser
        self.failure: GatewayError | None = None

    def read(self, data: bytes) -> list[ChatEvent]:
        """Return the events that the bytes complete."""
        try:
            frames = self._decoder.feed(data)
        except GatewayError as error:
            self.failure = error
            return []
        return self._parse(frames)

    def end(self) -> list[ChatEvent]:
        """Return the events that the body's end completes; it is a failure when the stream was not complete."""
        events = self._parse(self._decoder.end())
        if self._decoder.unterminated and self.failure is not None and self.failure.reason == _MALFORMED:
            # The last event lacks its end, so what is wrong with it is that it was cut.
            self.failure = GatewayError(
                error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED, "The stream ended in the middle of an event."
            )
        if self.failure is None:
            try:
                events += self.parser.parse_end()
            except GatewayError as error:
                self.failure = error
        return events

    def _parse(self, frames: list[Frame]) -> list[ChatEvent]:
        parser = self.parser
        if len(frames) == 1:  # As most reads are.
            try:
                events = parser.parse_frame(frames[0])
            except GatewayError as error:
                self.failure = error
                return []
        else:
            events = []
            try:
                for frame in frames:
                    events += parser.parse_frame(frame)
                    if parser.is_complete:
                        break
            except GatewayError as error:
                self.failure = error
        if self._warnings and events:
            self._add_warnings(events)
        return events

    def _add_warnings(self, events: list[ChatEvent]) -> None:
        for event in events:
            if event.WhichOneof("event") == "started":
                event.started.warnings.extend(self._warnings)
                self._warnings = ()


def _is_html(answer: Answer | StreamedAnswer) -> bool:
    return answer.headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml"))


def _is_whole_reply(answer: StreamedAnswer, begin: bytes) -> bool:
    """Whether a stream was answered in one piece: by its type, and where that does not say, by its first bytes."""
    content_type = answer.headers.get("content-type", "").lower()
    if content_type.startswith("text/event-stream"):
        return False
    first = begin.lstrip()
    if content_type.startswith("application/json"):
        return not first.startswith((b"data:", b"event:", b":"))
    return _is_html(answer) or first[:1] in (b"{", b"[", b"<")
