"""router.v1.DeploymentService: where calls go, for operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc.aio

from services.router import routes
from services.router.admission import Admission
from services.router.paging import take_page
from services.router.route_source import RouteSource
from services.router.validation import check_model_name
from trunkline.router.v1 import deployment_service_pb2, deployment_service_pb2_grpc
from trunkline.router.v1.deployment_service_pb2 import Deployment, RouteCandidate

__all__ = ["DeploymentService"]

Context = grpc.aio.ServicerContext[Any, Any]


class DeploymentService(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Lists deployments and explains routes."""

    def __init__(self, *, routes: RouteSource, admission: Admission) -> None:
        self._routes = routes
        self._admission = admission

    async def ListDeployments(
        self, request: deployment_service_pb2.ListDeploymentsRequest, context: Context
    ) -> deployment_service_pb2.ListDeploymentsResponse:
        """List every deployment of every configured model."""
        self._admission.require_operator(dict(context.invocation_metadata() or ()), "deployments.list")
        keyed = sorted(
            (f"{model}\0{number:06}", deployment)
            for model, deployments in self._routes.table().configured()
            for number, deployment in enumerate(deployments)
        )
        page, next_page_token = take_page(
            keyed, name=lambda item: item[0], page_size=request.page_size, page_token=request.page_token
        )
        return deployment_service_pb2.ListDeploymentsResponse(
            deployments=[_deployment(deployment) for _, deployment in page], next_page_token=next_page_token
        )

    async def ExplainRoute(
        self, request: deployment_service_pb2.ExplainRouteRequest, context: Context
    ) -> deployment_service_pb2.ExplainRouteResponse:
        """Tell what a call for a model would meet."""
        self._admission.require_operator(dict(context.invocation_metadata() or ()), "deployments.explain")
        check_model_name(request.model)
        plan = self._routes.table().plan(request.model)
        return deployment_service_pb2.ExplainRouteResponse(
            matched=plan.matched, candidates=_candidates(plan), max_attempts=plan.max_attempts
        )


def _candidates(plan: routes.Plan) -> Iterator[RouteCandidate]:
    is_first = True
    for group in plan.groups:
        fallback_model = "" if group.model == plan.model else group.model
        shares = _shares(group.deployments) if is_first else [0.0] * len(group.deployments)
        # The first group with anyone to ask gets the first attempt.
        is_first = is_first and not group.deployments
        for deployment, share in zip(group.deployments, shares, strict=True):
            yield RouteCandidate(
                deployment=_deployment(deployment), first_attempt_share=share, fallback_model=fallback_model
            )
        for excluded in group.excluded:
            yield RouteCandidate(
                deployment=_deployment(excluded.deployment),
                excluded_because=excluded.reason,
                fallback_model=fallback_model,
            )


def _shares(deployments: Sequence[routes.Deployment]) -> list[float]:
    total = sum(deployment.weight for deployment in deployments)
    if total <= 0:
        return [1 / len(deployments) for _ in deployments]
    return [deployment.weight / total for deployment in deployments]


def _deployment(deployment: routes.Deployment) -> Deployment:
    return Deployment(
        name=deployment.name,
        model=deployment.model,
        provider=deployment.provider,
        upstream_model=deployment.upstream_model,
        weight=deployment.weight,
    )
