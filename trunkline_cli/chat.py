"""`trunkline chat`: one question, its answer streamed to the terminal as it comes."""

from __future__ import annotations

import asyncio
import sys

from trunkline.client import connect
from trunkline.errors import GatewayError
from trunkline.inference.v1.chat_pb2 import ROLE_SYSTEM, ROLE_USER, Chat, Message, Part, TextPart

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
    async with connect(address, api_key=key) as client:
        async for event in client.stream(chat, timeout=timeout):
            match event.WhichOneof("event"):
                case "part_started" if event.part_started.begin.HasField("tool_call"):
                    call = event.part_started.begin.tool_call
                    sys.stdout.write(f"\n{call.name}({call.arguments_json}")
                case "tool_call_delta":
                    sys.stdout.write(event.tool_call_delta.arguments_json)
                case "part_started":
                    sys.stdout.write(event.part_started.begin.text.text)
                case "text_delta":
                    sys.stdout.write(event.text_delta.text)
                case "refusal_delta":
                    sys.stdout.write(event.refusal_delta.text)
                case "choice_finished":
                    sys.stdout.write("\n")
                case "usage_reported":
                    used = event.usage_reported.usage
                    sys.stderr.write(f"[{used.input_tokens} tokens in, {used.output_tokens} out]\n")
            sys.stdout.flush()
