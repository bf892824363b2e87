"""A process that serves a ChatService until it is told to stop: `python -m tests.runtime.server_process GRACE`.

It prints its port. A stream's model is how many seconds pass between its two messages.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from services.runtime.serve import GrpcServer, run
from services.runtime.telemetry import configure_logging
from tests.runtime.transports import completed, scripted, streamed
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc


async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
    return completed("1")


async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
    yield streamed("a")
    await asyncio.sleep(float(request.chat.model))
    yield streamed("b")


async def main(stop: asyncio.Event) -> int:
    server = GrpcServer(["127.0.0.1:0"])
    servicer = scripted(CompleteChat=complete, StreamChat=stream)
    pb_grpc.add_ChatServiceServicer_to_server(servicer, server.registrar("router"))
    sys.stdout.write(f"{await server.start()}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop(float(sys.argv[1]))
    return 3


if __name__ == "__main__":
    configure_logging()
    sys.exit(run(main))
