"""The JSON shapes of the OpenAPI document. OpenAI's own description is the authority; here is what a reader needs.

The rule: every object that may hold members the gateway only carries says so with `additionalProperties`.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["SCHEMAS"]

_Schema = dict[str, Any]


def _object(
    properties: dict[str, _Schema], *, required: tuple[str, ...] = (), open_ended: bool = True, description: str = ""
) -> _Schema:
    schema: _Schema = {"type": "object", "properties": properties, "additionalProperties": open_ended}
    if required:
        schema["required"] = list(required)
    if description:
        schema["description"] = description
    return schema


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _string(description: str = "", **more: Any) -> _Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _integer(description: str = "", **more: Any) -> _Schema:
    return {"type": "integer", **({"description": description} if description else {}), **more}


def _number(description: str, minimum: float, maximum: float) -> _Schema:
    return {"type": "number", "description": description, "minimum": minimum, "maximum": maximum}


_FINISH: Final = ["stop", "length", "tool_calls", "content_filter", "function_call"]

_MESSAGE: Final = _object(
    {
        "role": _string(enum=["system", "developer", "user", "assistant", "tool", "function"]),
        "content": {
            "nullable": True,
            "description": "Text, or a list of parts (text, image_url, input_audio, file, refusal).",
            "oneOf": [{"type": "string"}, _list(_object({"type": _string()}, required=("type",)))],
        },
        "name": _string(),
        "tool_call_id": _string("For role tool: the call this is the result of."),
        "tool_calls": _list(_ref("ToolCall")),
    },
    required=("role",),
)

_TOOL_CALL: Final = _object(
    {
        "id": _string(),
        "type": _string(enum=["function", "custom"]),
        "function": _object(
            {"name": _string(), "arguments": _string("JSON text as the model wrote it.")},
            required=("name", "arguments"),
        ),
    },
    required=("id", "type"),
)

_TOOL: Final = _object(
    {
        "type": _string(),
        "function": _object(
            {
                "name": _string(),
                "description": _string(),
                "parameters": {"type": "object", "description": "JSON Schema of the arguments."},
                "strict": {"type": "boolean", "nullable": True},
            },
            required=("name",),
        ),
    },
    required=("type",),
)

_REQUEST: Final = _object(
    {
        "model": _string("A name from `/v1/models`, or `provider/model`.", example="demo/echo"),
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": _ref("ChatMessage"),
            "example": [{"role": "user", "content": "Say hello."}],
        },
        "stream": {"type": "boolean", "default": False},
        "stream_options": _object({"include_usage": {"type": "boolean"}}),
        "tools": _list(_ref("Tool")),
        "tool_choice": {
            "description": '"none", "auto", "required", or a tool to call.',
            "oneOf": [{"type": "string"}, {"type": "object"}],
        },
        "parallel_tool_calls": {"type": "boolean"},
        "response_format": _object(
            {
                "type": _string(enum=["text", "json_object", "json_schema"]),
                "json_schema": _object({"name": _string(), "schema": {"type": "object"}}, required=("name",)),
            },
            required=("type",),
        ),
        "max_completion_tokens": _integer("Bound of the answer, reasoning included."),
        "max_tokens": _integer("The same under its older name."),
        "temperature": _number("Sampling temperature.", 0, 2),
        "top_p": _number("Nucleus sampling mass.", 0, 1),
        "frequency_penalty": _number("Penalty by frequency.", -2, 2),
        "presence_penalty": _number("Penalty by presence.", -2, 2),
        "n": _integer("How many answers.", minimum=1),
        "seed": _integer(),
        "stop": {"oneOf": [{"type": "string"}, _list({"type": "string"})]},
        "logprobs": {"type": "boolean"},
        "top_logprobs": _integer(minimum=0, maximum=20),
        "reasoning_effort": _string(),
        "service_tier": _string(),
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "user": _string(),
    },
    required=("model", "messages"),
    description="Members that are not listed are carried to the provider as they are.",
)

_USAGE: Final = _object(
    {
        "prompt_tokens": _integer("With those read from a cache."),
        "completion_tokens": _integer("With those spent on reasoning."),
        "total_tokens": _integer(),
        "prompt_tokens_details": _object({"cached_tokens": _integer()}),
        "completion_tokens_details": _object({"reasoning_tokens": _integer()}),
    },
    required=("prompt_tokens", "completion_tokens", "total_tokens"),
)


def _answer(kind: str, choice: _Schema) -> _Schema:
    return _object(
        {
            "id": _string(),
            "object": _string(enum=[kind]),
            "created": _integer("Seconds since 1970."),
            "model": _string("The model that answered, in the provider's words."),
            "choices": _list(choice),
            "usage": _ref("Usage"),
            "service_tier": _string(nullable=True),
            "system_fingerprint": _string(nullable=True),
        },
        required=("id", "object", "created", "model", "choices"),
    )


_CHOICE: Final = _object(
    {
        "index": _integer(),
        "message": _ref("ChatMessage"),
        "finish_reason": _string(enum=_FINISH),
        "logprobs": {"type": "object", "nullable": True},
    },
    required=("index", "message", "finish_reason"),
)

_CHUNK_CHOICE: Final = _object(
    {
        "index": _integer(),
        "delta": _object({"role": _string(), "content": _string(nullable=True), "tool_calls": _list(_object({}))}),
        "finish_reason": _string(enum=[*_FINISH, None], nullable=True),
        "logprobs": {"type": "object", "nullable": True},
    },
    required=("index", "delta"),
)

SCHEMAS: Final[dict[str, _Schema]] = {
    "ChatCompletionRequest": _REQUEST,
    "ChatMessage": _MESSAGE,
    "Tool": _TOOL,
    "ToolCall": _TOOL_CALL,
    "ChatCompletion": _answer("chat.completion", _CHOICE),
    "ChatCompletionChunk": _answer("chat.completion.chunk", _CHUNK_CHOICE),
    "Usage": _USAGE,
    "Model": _object(
        {"id": _string(), "object": _string(enum=["model"]), "created": _integer(), "owned_by": _string()},
        required=("id", "object", "created", "owned_by"),
        open_ended=False,
    ),
    "ModelList": _object(
        {"object": _string(enum=["list"]), "data": _list(_ref("Model"))}, required=("object", "data"), open_ended=False
    ),
    "Health": _object({"status": _string(enum=["ok", "draining", "unavailable"])}, required=("status",)),
    "ErrorResponse": _object(
        {
            "error": _object(
                {
                    "message": _string(),
                    "type": _string(),
                    "param": _string("The member at fault.", nullable=True),
                    "code": _string(nullable=True),
                },
                required=("message", "type", "param", "code"),
            )
        },
        required=("error",),
        open_ended=False,
    ),
}
