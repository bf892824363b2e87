"""A server and a channel without a socket: the generated stubs and servicers of several services in one process.

The one rule: a caller cannot tell it from a socket. Deadlines, metadata both ways, cancellation, statuses and trailers
behave as grpc.aio's do; the tests run the same behaviours over both. Differences, all of them of cost or of order:

* Messages are passed by reference, so a received message is never mutated, nor one that was sent.
* A handler runs in its caller's task and context, and only while the caller waits: a unary call starts when it is
  awaited, a stream's handler runs only as its messages are read. A context variable that a handler sets is seen by its
  caller. `call.code()` of a stream waits until the stream was read to its end.
* A stream that is dropped ends at once; over a socket that takes `call.cancel()` or the garbage collector.
* Stream handlers are async generators; `context.write` and streamed requests are refused.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import AsyncGeneratorType
from typing import Any, NoReturn

import grpc

from services.runtime.deadline import Deadlines
from services.runtime.local_call import LocalUnaryCall, UnaryHandler
from services.runtime.local_context import LocalContext, checked_metadata
from services.runtime.local_stream import CloseLater, LocalStreamCall, StreamHandler, close_generator

__all__ = ["LocalChannel", "LocalServer"]

_Serializer = Callable[[Any], bytes]
_Deserializer = Callable[[bytes], Any]
_RawMetadata = Iterable[tuple[str, str | bytes]]


class LocalServer(grpc.aio.Server):
    """Holds method handlers; a LocalChannel calls them. Owns the tasks that close streams nobody reads any more."""

    def __init__(self) -> None:
        self._unary: dict[str, UnaryHandler] = {}
        self._stream: dict[str, StreamHandler] = {}
        self.deadlines = Deadlines()
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Event | None = None
        self._is_stopped = False

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Do nothing: generated code registers each method by name too."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register a service's handlers, as generated `add_*_to_server` functions do.

        Raises TypeError for a stream handler that is not an async generator. Methods whose requests are streams are
        left out.
        """
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            if handler.unary_unary is not None:
                self._unary[path] = _unary_handler(handler.unary_unary)
            elif handler.unary_stream is not None:
                self._stream[path] = _stream_handler(path, handler.unary_stream)

    def unary_handler(self, path: str) -> UnaryHandler:
        """Return the handler of a unary method, one that answers UNIMPLEMENTED for an unknown method."""
        return self._unary.get(path) or (_refuse_unary if self._is_stopped else _unknown_unary)

    def stream_handler(self, path: str) -> StreamHandler:
        """Return the handler of a server-streaming method, one that answers UNIMPLEMENTED for an unknown method."""
        return self._stream.get(path) or (_refuse_stream if self._is_stopped else _unknown_stream)

    def close_later(self, generator: AsyncGeneratorType[Any, None]) -> None:
        """Close a handler's generator from a task of this server's own."""
        task = asyncio.get_running_loop().create_task(close_generator(generator))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def start(self) -> None:
        """Do nothing: handlers can be called from registration on."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls with UNAVAILABLE and wait until abandoned streams are closed, at most `grace` seconds."""
        self._is_stopped = True
        self._unary.clear()
        self._stream.clear()
        if self._closing:
            await asyncio.wait(self._closing, timeout=grace)
        if self._stopped is not None:
            self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's interface
        """Wait until `stop` was called. Returns True when `timeout` seconds passed first."""
        if self._is_stopped:
            return False
        self._stopped = self._stopped or asyncio.Event()
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def add_insecure_port(self, address: str) -> NoReturn:
        """Raise: there are no ports here."""
        raise grpc.aio.UsageError("a LocalServer listens on no address")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        """Raise: there are no ports here."""
        raise grpc.aio.UsageError("a LocalServer listens on no address")


def _unary_handler(handler: Callable[..., Any]) -> UnaryHandler:
    if inspect.iscoroutinefunction(handler):
        return handler

    async def call(request: Any, context: Any) -> Any:
        # The generated default of a method that a servicer left out: sets UNIMPLEMENTED and raises.
        return handler(request, context)

    return call


def _stream_handler(path: str, handler: Callable[..., Any]) -> StreamHandler:
    if inspect.isasyncgenfunction(handler):
        return handler
    if inspect.iscoroutinefunction(handler):
        raise TypeError(f"the handler of {path} must be an async generator")

    async def call(request: Any, context: Any) -> Any:
        for message in handler(request, context):  # the generated default raises here
            yield message

    return call


async def _unknown_unary(_request: object, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def _unknown_stream(_request: object, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    yield


async def _refuse_unary(_request: object, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "Server already stopped.")


async def _refuse_stream(_request: object, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "Server already stopped.")
    yield


class _UnaryMethod(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    def __init__(self, server: LocalServer, path: str) -> None:
        self._find = server.unary_handler
        self._path = path
        self._deadlines = server.deadlines

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: _RawMetadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> LocalUnaryCall:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        context = LocalContext(checked_metadata(metadata), deadline)
        return LocalUnaryCall(self._find(self._path), request, context, self._deadlines)


class _StreamMethod(grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    def __init__(self, server: LocalServer, path: str) -> None:
        self._find = server.stream_handler
        self._path = path
        self._deadlines = server.deadlines
        self._close_later: CloseLater = server.close_later

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: _RawMetadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> LocalStreamCall:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        context = LocalContext(checked_metadata(metadata), deadline)
        return LocalStreamCall(self._find(self._path), request, context, self._deadlines, self._close_later)


class _RefusedMethod(grpc.aio.StreamUnaryMultiCallable[Any, Any], grpc.aio.StreamStreamMultiCallable[Any, Any]):
    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise grpc.aio.UsageError(f"{self._path} streams its requests, which a LocalChannel does not carry")


class LocalChannel(grpc.aio.Channel):
    """Calls the handlers of a LocalServer; generated stubs take it as any channel."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server

    def unary_unary(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        """Return what calls a unary method."""
        return _UnaryMethod(self._server, method)

    def unary_stream(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        """Return what calls a server-streaming method."""
        return _StreamMethod(self._server, method)

    def stream_unary(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        """Return what raises UsageError when it is called."""
        return _RefusedMethod(method)

    def stream_stream(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        """Return what raises UsageError when it is called."""
        return _RefusedMethod(method)

    async def __aenter__(self) -> LocalChannel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: calls in flight belong to their callers."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return READY, always."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait for what never comes while the state is READY."""
        if last_observed_state is grpc.ChannelConnectivity.READY:
            await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """Return at once."""
