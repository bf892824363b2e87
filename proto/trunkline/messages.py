"""Short constructors for the messages of a chat, and the text of an answer. The contract itself is chat.proto.

chat("gpt-4o", system("Be brief."), user("Hi"), temperature=0.2)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["answer_text", "assistant", "chat", "developer", "image", "system", "text", "tool", "tool_result", "user"]


def chat(model: str, *messages: pb.Message, **settings: Any) -> pb.Chat:
    """Return a chat; `settings` are members of Chat, such as `temperature=0.2` or `tools=[...]`."""
    return pb.Chat(model=model, messages=messages, **settings)


def system(content: str) -> pb.Message:
    """Return instructions of the operator."""
    return _message(pb.ROLE_SYSTEM, content)


def developer(content: str) -> pb.Message:
    """Return instructions of the developer, as newer models call them."""
    return _message(pb.ROLE_DEVELOPER, content)


def user(*content: str | pb.Part) -> pb.Message:
    """Return what the user says: one text, or texts and parts in order."""
    return _message(pb.ROLE_USER, *content)


def assistant(*content: str | pb.Part) -> pb.Message:
    """Return what the model said. A whole answer goes into the next turn as it is: `reply.choices[0].message`."""
    return _message(pb.ROLE_ASSISTANT, *content)


def tool_result(call_id: str, content: str) -> pb.Message:
    """Return the result of the tool call with that id."""
    message = _message(pb.ROLE_TOOL, content)
    message.tool_call_id = call_id
    return message


def text(content: str) -> pb.Part:
    """Return a text part."""
    return pb.Part(text=pb.TextPart(text=content))


def image(source: str | bytes, media_type: str = "", *, detail: str | None = None) -> pb.Part:
    """Return an image part: by address (http, https or data), or by its bytes and their media type ("image/png")."""
    if isinstance(source, str):
        return pb.Part(image=pb.ImagePart(url=source, detail=detail))
    return pb.Part(image=pb.ImagePart(data=source, media_type=media_type, detail=detail))


def tool(
    name: str, description: str | None = None, parameters: Mapping[str, Any] | str = "", *, strict: bool | None = None
) -> pb.Tool:
    """Return a function the model may call; `parameters` is the JSON Schema of its arguments, as object or as text."""
    schema = parameters if isinstance(parameters, str) else msgspec.json.encode(parameters).decode()
    function = pb.FunctionTool(name=name, description=description, parameters_json=schema, strict=strict)
    return pb.Tool(function=function)


def answer_text(reply: pb.ChatReply, choice: int = 0) -> str:
    """Return an answer's text; "" when there is none, as when the model only calls tools."""
    for candidate in reply.choices:
        if candidate.index == choice:
            return "".join(part.text.text for part in candidate.message.parts if part.HasField("text"))
    return ""


def _message(role: pb.Role.ValueType, *content: str | pb.Part) -> pb.Message:
    parts = [text(piece) if isinstance(piece, str) else piece for piece in content]
    is_string = len(content) == 1 and isinstance(content[0], str)
    form = pb.CONTENT_FORM_STRING if is_string else pb.CONTENT_FORM_LIST
    return pb.Message(role=role, parts=parts, content_form=form)
