"""GET /docs: Swagger UI from an installed package, so that it works without a network; and /openapi.json.

The rule: the page loads and asks nothing but this server, and its content security policy says so.
"""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from swagger_ui_bundle import swagger_ui_path

from gateway_http.openapi import openapi_document

__all__ = ["docs_routes"]

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_ASSETS: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_ASSET_CACHE: Final = "public, max-age=86400"

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Trunkline API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
# `validatorUrl: null`: by default the page would ask a public server whether the document is valid.
_START: Final = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis]
});
"""


def docs_routes(version: str) -> list[BaseRoute]:
    """Return the routes of the page, its assets and the document of the API at this version."""
    document = msgspec.json.encode(openapi_document(version))

    async def page(_request: Request) -> Response:
        return Response(_PAGE, media_type="text/html", headers=_HEADERS)

    async def start(_request: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=_HEADERS)

    async def asset(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return FileResponse(
            swagger_ui_path / name, media_type=_ASSETS[name], headers={**_HEADERS, "cache-control": _ASSET_CACHE}
        )

    async def openapi(_request: Request) -> Response:
        return Response(document, media_type="application/json")

    return [
        Route("/docs", page),
        Route("/docs/start.js", start),
        *(Route(f"/docs/{name}", asset) for name in _ASSETS),
        Route("/openapi.json", openapi),
    ]
