"""router.v1.ModelService: which names a caller may use."""

from __future__ import annotations

from typing import Any

import grpc.aio

from services.router.admission import Admission
from services.router.offered_models import OfferedModels
from services.router.paging import take_page
from services.router.patterns import WILDCARD
from services.router.route_source import RouteSource
from services.router.routes import RouteTable
from services.router.validation import check_model_name
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.router.v1 import model_service_pb2, model_service_pb2_grpc
from trunkline.router.v1.model_service_pb2 import Model

__all__ = ["ModelService"]

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Lists and finds models. `created_seconds` is since when the configuration holds, in seconds since 1970."""

    def __init__(
        self, *, routes: RouteSource, admission: Admission, offered: OfferedModels, created_seconds: int
    ) -> None:
        self._routes = routes
        self._admission = admission
        self._offered = offered
        self._created_seconds = created_seconds

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """List configured names, and each provider's wildcard with the models it tells of."""
        self._admission.authenticate(dict(context.invocation_metadata() or ()))
        table = self._routes.table()
        owners = dict(table.owners())
        # Only there a model's name is known to be the caller's name for it too.
        whole = [owner for name, owner in owners.items() if name == f"{owner}/{WILDCARD}"]
        offered = await self._offered.of(provider for provider in whole if table.can_list_models(provider))
        for provider in whole:
            for model in offered.get(provider, ()):
                name = f"{provider}/{model}"
                owners.setdefault(name, table.owner(name))
        page, next_page_token = take_page(
            sorted(owners.items()),
            name=lambda item: item[0],
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return model_service_pb2.ListModelsResponse(
            models=[self._model(name, owner) for name, owner in page], next_page_token=next_page_token
        )

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: Context
    ) -> model_service_pb2.GetModelResponse:
        """Find one model, also one that only a wildcard covers."""
        self._admission.authenticate(dict(context.invocation_metadata() or ()))
        check_model_name(request.name, "name")
        table: RouteTable = self._routes.table()
        if not table.covers(request.name):
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"there is no model {request.name!r}",
                metadata={"model": request.name},
            )
        return model_service_pb2.GetModelResponse(model=self._model(request.name, table.owner(request.name)))

    def _model(self, name: str, owner: str) -> Model:
        return Model(name=name, owned_by=owner, created_seconds=self._created_seconds, is_wildcard=WILDCARD in name)
