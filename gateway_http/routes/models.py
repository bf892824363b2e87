"""GET /v1/models and /v1/models/{id}: which models a caller may name, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import grpc.aio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway_http.errors import router_error
from gateway_http.exchange import Exchange
from trunkline.router.v1 import model_service_pb2, model_service_pb2_grpc

__all__ = ["ModelRoutes"]

_DEADLINE_SECONDS = 30.0
_MOST_PAGES = 1000  # of 1000 models each; a router that never ends its list must not hold a request for ever


class ModelRoutes:
    """Answers from a router's ModelService on `channel`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)

    async def list_models(self, request: Request) -> Response:
        """List the models by name. Patterns such as "openai/*" are left out: they are no model a caller can name."""
        exchange: Exchange = request.scope["exchange"]
        models: list[dict[str, Any]] = []
        token = ""
        for _ in range(_MOST_PAGES):
            try:
                page = await self._stub.ListModels(
                    model_service_pb2.ListModelsRequest(page_token=token),
                    metadata=exchange.metadata,
                    timeout=_DEADLINE_SECONDS,
                )
            except grpc.aio.AioRpcError as error:
                raise router_error(error) from None
            models += [_document(model) for model in page.models if not model.is_wildcard]
            token = page.next_page_token
            if not token:
                break
        return _json({"object": "list", "data": models})

    async def get_model(self, request: Request) -> Response:
        """Find one model, also one that only a wildcard covers. Its id may contain slashes."""
        exchange: Exchange = request.scope["exchange"]
        try:
            response = await self._stub.GetModel(
                model_service_pb2.GetModelRequest(name=request.path_params["model_id"]),
                metadata=exchange.metadata,
                timeout=_DEADLINE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            raise router_error(error) from None
        return _json(_document(response.model))


def _document(model: model_service_pb2.Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created_seconds, "owned_by": model.owned_by}


def _json(document: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")
