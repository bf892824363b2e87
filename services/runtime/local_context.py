"""What a handler knows of a local call, and what the call ends with: the servicer context without a socket.

The one rule: everything here is plain data of one call. `LocalContext` never refers to the call, so that dropping the
call frees it, and with it its handler, at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NoReturn, TypeAlias

import grpc

__all__ = ["CANCELLED_DETAILS", "DEADLINE_DETAILS", "LocalContext", "Metadata", "ReceivedMetadata", "checked_metadata"]

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""Pairs of key and value as they travel: keys in lower case, values bytes where the key ends in "-bin", else text."""

CANCELLED_DETAILS: Final = "Locally cancelled by application!"
DEADLINE_DETAILS: Final = "Deadline Exceeded"


def checked_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """Return metadata as it would arrive over a socket.

    Raises ValueError for what a socket would refuse: a key not in lower case, text under a "-bin" key, bytes elsewhere.
    """
    if not metadata:
        return ()
    pairs = tuple(metadata)
    for key, value in pairs:
        if not key.islower() or not isinstance(value, bytes if key.endswith("-bin") else str):
            raise ValueError(f"metadata key {key!r}: keys are lower case, values str, or bytes under a '-bin' key")
    return pairs


class ReceivedMetadata(grpc.aio.Metadata):
    """Metadata as a caller gets it: pairs, until somebody asks for one by its key or changes it.

    Who only walks over it, as the hot path does, is spared an ordered dictionary of lists: 0.5 us instead of 1.8.
    """

    def __init__(self, pairs: Metadata) -> None:
        self._pairs = pairs

    @cached_property
    def _metadata(self) -> OrderedDict[str, list[str | bytes]]:  # what all other methods of the base work on
        by_key: OrderedDict[str, list[str | bytes]] = OrderedDict()
        for key, value in self._pairs:
            by_key.setdefault(key, []).append(value)
        return by_key

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        """Return the pairs."""
        return super().__iter__() if "_metadata" in self.__dict__ else iter(self._pairs)


class LocalContext(grpc.aio.ServicerContext[Any, Any]):
    """The servicer context of a local call; it behaves as grpc.aio's, with what a socket does not have left out."""

    # Class attributes are the defaults: a call that sets nothing pays for nothing.
    halted = False
    """True once what the handler returns counts no more: it aborted, was interrupted, or the call is over."""
    status_code: grpc.StatusCode | None = None
    """The status set so far, None for none."""
    initial: Metadata = ()
    is_over = False
    was_cancelled = False
    _initial_sent = False
    _trailing: Metadata = ()
    _details = ""
    _aborted = False
    _callbacks: list[Callable[[Any], None]] | None = None

    def __init__(self, metadata: Metadata, deadline: float | None) -> None:
        self._metadata = metadata
        self.deadline = deadline

    def invocation_metadata(self) -> Any:
        """Return the caller's metadata as a tuple of pairs."""
        return self._metadata

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Set the metadata that precedes the answer; once."""
        if self._initial_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._initial_sent = True
        self.initial = checked_metadata(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set the metadata that follows the answer."""
        self._trailing = checked_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """Return the metadata that follows the answer."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status with which the call ends; a code other than OK discards the answer."""
        self.status_code = code

    def code(self) -> Any:
        """Return the status set so far, or None."""
        return self.status_code

    def set_details(self, details: str) -> None:
        """Set the words beside the status."""
        self._details = details

    def details(self) -> str:
        """Return the words beside the status."""
        return self._details

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status. Raises AbortError, which the handler lets pass."""
        if self._aborted:
            raise grpc.aio.UsageError("Abort already called!")
        if trailing_metadata:
            self._trailing = checked_metadata(trailing_metadata)
        self.status_code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self._details = details or self._details
        self._aborted = self.halted = True
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status object."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def time_remaining(self) -> Any:
        """Return the seconds left until the deadline, at least 0, or None without one."""
        if self.deadline is None:
            return None
        return max(self.deadline - asyncio.get_running_loop().time(), 0)

    def cancelled(self) -> bool:
        """Whether the caller gave up or its deadline passed."""
        return self.was_cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        return self.is_over

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(context)` when the call is over."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def finish(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """End the call with what the handler set, or with `code` where that is given. Only the first ending counts."""
        if self.is_over:
            return
        self.is_over = self.halted = True
        if code is not None:
            self.status_code, self._details = code, details
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                callback(self)

    @property
    def status(self) -> grpc.StatusCode:
        """The status that the call ended with, or will as things stand."""
        return self.status_code or grpc.StatusCode.OK

    @property
    def is_aborted(self) -> bool:
        """Whether the handler called `abort`, even if it went on afterwards."""
        return self._aborted

    def error(self) -> grpc.aio.AioRpcError:
        """Return the error that the caller of a failed call sees."""
        make = grpc.aio.Metadata.from_tuple
        return grpc.aio.AioRpcError(self.status, make(self.initial), make(self._trailing), details=self._details)

    def peer(self) -> str:
        """Return "local", which is no address."""
        return "local"

    def peer_identities(self) -> None:
        """Return None: the peer is this process."""

    def peer_identity_key(self) -> None:
        """Return None: the peer is this process."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return nothing: there is no transport that could have authenticated."""
        return {}

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: there are no bytes."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: there are no bytes."""

    async def read(self) -> NoReturn:
        """Raise: requests that are streams come with the bidirectional calls."""
        raise grpc.aio.UsageError("a local handler gets its request as an argument")

    async def write(self, message: object) -> NoReturn:
        """Raise: a local stream handler is an async generator and yields its messages."""
        raise grpc.aio.UsageError("a local stream handler yields its messages")
