"""`trunkline chat`: one question, its answer streamed to the terminal as it comes."""

from __future__ import annotations

import asyncio
import sys

from trunkline.client import connect
from trunkline.errors import GatewayError
from trunkline.inference.v1.chat_pb2 import ROLE_SYSTEM, ROLE_USER, Chat, Message, Part, TextPart
from trunkline.inference.v1.usage_pb2 import TokenUsage

__all__ = ["stream_chat"]


def stream_chat(model: str, prompt: str, *, address: str, key: str, system: str | None, timeout: float) -> int:
    """Print the answer, and its usage on stderr; return the exit status."""
    messages = [Message(role=ROLE_SYSTEM, parts=[Part(text=TextPart(text=system))])] if system else []
    messages.append(Message(role=ROLE_USER, parts=[Part(text=TextPart(text=prompt))]))
    try:
        asyncio.run(_stream(Chat(model=model, messages=messages), address=address, key=key, timeout=timeout))
    except GatewayError as error:
        sys.stderr.write(f"\n{error.name}: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _stream(chat: Chat, *, address: str, key: str, timeout: float) -> None:  # noqa: ASYNC109  # the RPC's deadline
    used: TokenUsage | None = None
    async with connect(address, api_key=key) as client:
        async for event in client.stream(chat, timeout=timeout):
            match event.WhichOneof("event"):
                case "part_started":
                    begin = event.part_started.begin
                    sys.stdout.write(begin.text.text or begin.refusal.text)
                case "text_delta":
                    sys.stdout.write(event.text_delta.text)
                case "refusal_delta":
                    sys.stdout.write(event.refusal_delta.text)
                case "usage_reported":
                    used = event.usage_reported.usage
            sys.stdout.flush()
    sys.stdout.write("\n")
    if used is not None:
        counts = (
            str(used.input_tokens) if used.HasField("input_tokens") else "?",
            str(used.output_tokens) if used.HasField("output_tokens") else "?",
        )
        sys.stderr.write(f"[{counts[0]} tokens in, {counts[1]} out]\n")
