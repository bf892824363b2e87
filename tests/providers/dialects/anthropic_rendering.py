"""What the tests of rendering share: short ways to say a chat, and the request it gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from services.providers.dialects.anthropic_messages import DIALECT
from services.providers.endpoint import Endpoint
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["ENDPOINT", "Rendered", "assistant", "image", "render", "say", "text", "tool", "user"]

ENDPOINT = Endpoint(name="anthropic", catalog="anthropic", dialect="anthropic_messages", base_url="http://upstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A rendered request."""

    body: dict[str, Any]
    headers: dict[str, str]
    warned: tuple[str, ...]
    """The members warned of, in order."""
    text: str
    """The body as sent."""


def render(
    *messages: pb.Message,
    model: str = "claude-sonnet-4-5",
    endpoint: Endpoint = ENDPOINT,
    stream: bool = False,
    **members: Any,
) -> Rendered:
    """Render a chat of these messages, of the user's "Hi" when none is given. Sets max_tokens unless told otherwise."""
    members.setdefault("max_tokens", 20_000)
    chat = pb.Chat(messages=messages or [user("Hi")], **members)
    before = chat.SerializeToString(deterministic=True)
    call = DIALECT.render_chat(chat, model, endpoint, stream=stream)
    assert chat.SerializeToString(deterministic=True) == before, "the caller's chat was changed"
    warned = tuple(warning.param for warning in call.warnings)
    return Rendered(body=json.loads(call.body), headers=dict(call.headers), warned=warned, text=call.body.decode())


def text(words: str, **members: Any) -> pb.Part:
    """Return a text part."""
    return pb.Part(text=pb.TextPart(text=words, **members))


def image(**members: Any) -> pb.Part:
    """Return an image part."""
    return pb.Part(image=pb.ImagePart(**members))


def say(role: pb.Role.ValueType, *content: str | pb.Part, **members: Any) -> pb.Message:
    """Return a message: of one string as a caller's plain `content`, else as its list."""
    is_string = len(content) == 1 and isinstance(content[0], str)
    members.setdefault("content_form", pb.CONTENT_FORM_STRING if is_string else pb.CONTENT_FORM_LIST)
    parts = [text(part) if isinstance(part, str) else part for part in content]
    return pb.Message(role=role, parts=parts, **members)


def user(*content: str | pb.Part, **members: Any) -> pb.Message:
    """Return a user's message."""
    return say(pb.ROLE_USER, *content, **members)


def assistant(*content: str | pb.Part, **members: Any) -> pb.Message:
    """Return a message of the model."""
    return say(pb.ROLE_ASSISTANT, *content, **members)


def tool(call_id: str, *content: str | pb.Part, **members: Any) -> pb.Message:
    """Return a tool's result."""
    return say(pb.ROLE_TOOL, *content, tool_call_id=call_id, **members)
