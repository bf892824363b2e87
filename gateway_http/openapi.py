"""The OpenAPI document of this server: its routes as they are, made by hand.

The rule: a test compares it with the routes, so it names each one and none besides. It is OpenAPI 3.0, the newest that
the bundled Swagger UI draws.
"""

from __future__ import annotations

from typing import Any, Final

from gateway_http.openapi_schemas import SCHEMAS

__all__ = ["openapi_document"]

_DESCRIPTION: Final = """An OpenAI-compatible gateway to many model providers. Point any OpenAI client's `base_url` at
`/v1` of this server. Paths are also served without `/v1`.

Every answer bears `x-request-id`: the caller's own (`x-request-id` or `x-api-request-log-id`, when valid) or a new one.
"""

_JSON: Final = "application/json"


def openapi_document(version: str) -> dict[str, Any]:
    """Return the document for this version of the server."""
    return {
        "openapi": "3.0.3",
        "info": {"title": "Trunkline", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "chat", "description": "Answers from a model"},
            {"name": "models", "description": "What may be asked"},
            {"name": "operations", "description": "For those who run the gateway"},
        ],
        "paths": {
            "/v1/chat/completions": {"post": _chat()},
            "/v1/models": {"get": _list_models()},
            "/v1/models/{model_id}": {"get": _get_model()},
            "/health/live": {"get": _health("live", "Whether the process serves at all.")},
            "/health/ready": {"get": _ready()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _text("This document.", _JSON, "openapi_document")},
            "/docs": {"get": _text("This document as a page.", "text/html", "docs_page")},
        },
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of this gateway. The headers `api-key` and `x-api-key` are read as well.",
                }
            },
            "parameters": _parameters(),
            "headers": _headers(),
            "responses": {"Error": _error_response("A refusal or a failure.")},
            "schemas": SCHEMAS,
        },
    }


def _chat() -> dict[str, Any]:
    headers = {
        "x-request-id": {"$ref": "#/components/headers/RequestId"},
        "x-trunkline-deployment": {"$ref": "#/components/headers/Deployment"},
        "x-trunkline-provider": {"$ref": "#/components/headers/Provider"},
        "x-trunkline-attempts": {"$ref": "#/components/headers/Attempts"},
    }
    return {
        "operationId": "create_chat_completion",
        "tags": ["chat"],
        "summary": "Answer a chat",
        "description": (
            "In one piece, or with `stream: true` as server-sent events: chunks as `data:` lines, comment lines while "
            "the model is silent, `data: [DONE]` after a complete answer. A failure after the first byte is one "
            "`data:` line with an `error` member, and no `[DONE]`."
        ),
        "parameters": [
            {"$ref": f"#/components/parameters/{name}"}
            for name in ("RequestId", "Traceparent", "LiveKitRoom", "LiveKitJob", "LiveKitAgent", "LiveKitSession")
        ],
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"$ref": "#/components/schemas/ChatCompletionRequest"}}},
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": headers,
                "content": {
                    _JSON: {"schema": {"$ref": "#/components/schemas/ChatCompletion"}},
                    "text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatCompletionChunk"}},
                },
            },
            **{
                status: _error_response(description)
                for status, description in (
                    ("400", "Malformed, out of range, too long for the model, or blocked by a policy."),
                    ("401", "No key, or an unknown one."),
                    ("403", "The key, or the page's origin, may not do this."),
                    ("404", "No such model."),
                    ("408", "The body did not arrive in time."),
                    ("413", "The body is too large."),
                    ("415", "The body is compressed."),
                    ("429", "A rate limit or a budget, of this gateway or of the provider."),
                    ("500", "A bug in the gateway; the message is the request id."),
                    ("502", "The provider cannot be reached, or answered nonsense."),
                    ("503", "Overloaded, draining, or no deployment left to try."),
                    ("504", "The provider did not answer in time."),
                )
            },
        },
    }


def _list_models() -> dict[str, Any]:
    return {
        "operationId": "list_models",
        "tags": ["models"],
        "summary": "List models",
        "responses": {"200": _json_response("The models by name.", "ModelList"), "default": _default_error()},
    }


def _get_model() -> dict[str, Any]:
    return {
        "operationId": "get_model",
        "tags": ["models"],
        "summary": "Find one model",
        "parameters": [
            {
                "name": "model_id",
                "in": "path",
                "required": True,
                "description": "The model's name; slashes in it stand as they are.",
                "schema": {"type": "string"},
            }
        ],
        "responses": {"200": _json_response("The model.", "Model"), "default": _default_error()},
    }


def _health(name: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": f"health_{name}",
        "tags": ["operations"],
        "summary": summary,
        "security": [],
        "responses": {"200": _json_response("Yes.", "Health")},
    }


def _ready() -> dict[str, Any]:
    operation = _health("ready", "Whether the router answers and the server is not draining.")
    operation["responses"]["503"] = _json_response("Not now.", "Health")
    return operation


def _metrics() -> dict[str, Any]:
    operation = _text("Counters in Prometheus' text format. May ask for the operator's key.", "text/plain", "metrics")
    operation["responses"]["default"] = _default_error()
    return operation


def _text(summary: str, media_type: str, operation_id: str) -> dict[str, Any]:
    return {
        "operationId": operation_id,
        "tags": ["operations"],
        "summary": summary,
        "security": [],
        "responses": {
            "200": {
                "description": summary,
                "content": {media_type: {"schema": {"type": "object" if media_type == _JSON else "string"}}},
            }
        },
    }


def _json_response(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _default_error() -> dict[str, Any]:
    return {"$ref": "#/components/responses/Error"}


def _error_response(description: str) -> dict[str, Any]:
    return {
        **_json_response(description, "ErrorResponse"),
        "headers": {
            "x-request-id": {"$ref": "#/components/headers/RequestId"},
            "retry-after": {"description": "Seconds to wait, where known.", "schema": {"type": "integer"}},
            "retry-after-ms": {"description": "The same in milliseconds.", "schema": {"type": "integer"}},
            "x-should-retry": {
                "description": "`false` where the same request cannot succeed.",
                "schema": {"type": "string", "enum": ["false"]},
            },
        },
    }


def _parameters() -> dict[str, Any]:
    return {
        name: {
            "name": header,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": "string"},
        }
        for name, header, description in (
            ("RequestId", "x-request-id", "An id for this request; one is made when it is absent or not valid."),
            ("Traceparent", "traceparent", "W3C trace context, kept in the usage record."),
            ("LiveKitRoom", "x-livekit-room-id", "A label for the usage record."),
            ("LiveKitJob", "x-livekit-job-id", "A label for the usage record."),
            ("LiveKitAgent", "x-livekit-agent-id", "A label for the usage record."),
            ("LiveKitSession", "x-livekit-session-id", "A label for the usage record."),
        )
    }


def _headers() -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": kind}}
        for name, description, kind in (
            ("RequestId", "The id of this request, as in the log and the usage record.", "string"),
            ("Deployment", "The deployment that answered.", "string"),
            ("Provider", "The provider that answered.", "string"),
            ("Attempts", "How many deployments were asked.", "integer"),
        )
    }
