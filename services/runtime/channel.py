"""How a service reaches another one: channels with the options that long streams and restarts need.

The one rule: no channel retries. What to do about a failed call is decided in one place, by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

__all__ = ["MAX_MESSAGE_BYTES", "BearerChannel", "open_channel"]

MAX_MESSAGE_BYTES: Final = 64 << 20
"""The largest message by default, both ways: a request with several images inline."""

_MAX_METADATA_BYTES: Final = 64 << 10

_Serializer = Callable[[Any], bytes]
_Deserializer = Callable[[bytes], Any]
_RawMetadata = Iterable[tuple[str, str | bytes]]


def open_channel(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    keepalive_seconds: float = 30.0,
) -> grpc.aio.Channel:
    """Return a channel to "host:port", "unix:path" or "dns:///name:port", which spreads calls over all its addresses.

    `credentials` are those of TLS, None for plain text. A peer that is silent is asked every `keepalive_seconds`, also
    without calls, so that a dead connection is found before a call needs it.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", round(keepalive_seconds * 1e3)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # A peer that restarts is back within a second; grpc's own pace would leave it out for up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if target.startswith("dns:"):
        options.append(("grpc.lb_policy_name", "round_robin"))
    compression = grpc.Compression.NoCompression
    if credentials is not None:
        return grpc.aio.secure_channel(target, credentials, options=options, compression=compression)
    return grpc.aio.insecure_channel(target, options=options, compression=compression)


class BearerChannel(grpc.aio.Channel):
    """A channel that adds `authorization: Bearer <secret>` to every call. Closing it closes the channel it wraps.

    It wraps the method callables once, when a stub is made; grpc.aio's client interceptors would cost a task per call.
    """

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self._channel = channel
        self._pair = (("authorization", f"Bearer {secret}"),)

    def _wrap(self, call: Callable[..., Any]) -> Any:
        pair = self._pair

        def with_bearer(request: Any, *, metadata: _RawMetadata | None = None, **options: Any) -> Any:
            return call(request, metadata=pair if metadata is None else (*metadata, *pair), **options)

        return with_bearer

    def unary_unary(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what calls a unary method."""
        return self._wrap(self._channel.unary_unary(method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what calls a server-streaming method."""
        return self._wrap(self._channel.unary_stream(method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what calls a client-streaming method."""
        return self._wrap(self._channel.stream_unary(method, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: _Serializer | None = None,
        response_deserializer: _Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what calls a bidirectional method."""
        return self._wrap(self._channel.stream_stream(method, request_serializer, response_deserializer))

    async def __aenter__(self) -> BearerChannel:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._channel.__aexit__(*exc_info)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the channel's state."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the channel's state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is ready."""
        await self._channel.channel_ready()
