"""Hands journalled usage records to the usage service. The one rule: what can never be applied holds up no other."""

from __future__ import annotations

import logging
from typing import Final

import grpc.aio
from google.protobuf.message import DecodeError

from trunkline.errors.gateway_error import from_rpc_error
from trunkline.usage.v1 import usage_service_pb2, usage_service_pb2_grpc

__all__ = ["UsageSender"]

_LOG = logging.getLogger(__name__)

_CALL_TIMEOUT: Final = 30.0


class UsageSender:
    """Sends batches, as a Shipper wants it: raises GatewayError when the whole batch must be sent again."""

    def __init__(self, stub: usage_service_pb2_grpc.UsageServiceAsyncStub) -> None:
        self._stub = stub

    async def send(self, records: list[bytes]) -> None:
        """Apply the records to the ledger."""
        request = usage_service_pb2.RecordUsageRequest()
        for record in records:
            try:
                request.records.add().MergeFromString(record)
            except DecodeError:
                # The journal checks what it reads, so this was written by another version, or is a bug.
                del request.records[-1]
                _LOG.critical("a journalled record is not a usage record", extra={"bytes": len(record)})
        if not request.records:
            return
        try:
            response = await self._stub.RecordUsage(request, timeout=_CALL_TIMEOUT)
        except grpc.aio.AioRpcError as rpc_error:
            raise from_rpc_error(rpc_error) from rpc_error
        for rejected in response.rejected_records:
            about = {"record_id": rejected.record_id, "reason": rejected.message}
            _LOG.critical("the ledger refused a usage record for good", extra=about)
