"""The gateway: python -m api_service

`create_app` builds everything that a request needs and nothing else; the behaviour is in the modules it imports.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import httpx
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_service.api import logs, problems, schemas
from api_service.api.access import Gatekeeper, KeyStore, Signer
from api_service.api.admin import worker_parts
from api_service.api.gateway import Service, service_of
from api_service.api.metrics import CONTENT_TYPE, Metrics
from api_service.api.routes import (
    about_api,
    describe_webhooks,
    jobs_api,
    legacy_api,
    retakes_api,
    shared_api,
    webhooks_api,
)
from s2s import __version__
from s2s.config import Settings, settings
from s2s.wire import Problem

log = logging.getLogger(__name__)

PAGE_FOLDERS = (
    "css",
    "fonts",
    "img",
    "js",
    "samples",
)  # of the page's directory; its Dockerfile and the like stay inside
DESCRIPTION = """
A silent video in, the same video with fitting sound out.

Send a clip to `POST /v1/jobs`, follow `links.events`, fetch `links.result`. Every error is an
[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem with a stable `code`, words for people in `detail` and
`hint`, and the `request_id` that our log knows it by.
"""
TAGS = [
    {
        "name": "jobs",
        "description": "From a clip to its sound. A job survives a closed tab and a restart of the service.",
    },
    {"name": "shared", "description": "What a shared link leads to: to read, nothing else."},
    {"name": "webhooks", "description": "Told how a job ended, instead of asking; where the operator allows it."},
    {"name": "about", "description": "Limits, models, health."},
    {"name": "original project", "description": "The three routes that clients of the original project know."},
]
NO_DATABASE = ("/livez", "/v1/limits", "/v1/models")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_CSP = CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI writes styles
SHARED_CSP = CSP.replace("base-uri 'none'", "base-uri 'self'")
HUNG_UP = 499  # as nginx counts who went away before there was an answer
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
DOCS_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Silence to Sound: API</title><link rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="icon" href="docs/assets/favicon.png"></head>
<body><div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>"""
DOCS_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, layout: "BaseLayout",
defaultModelsExpandDepth: 0, tryItOutEnabled: true, validatorUrl: null});"""


def create_app(config: Settings | None = None, transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """`transport`: what stands between the gateway and the model server; tests put an instant one there."""
    config = config or settings()
    logs.configure(config)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        signer = Signer.of(config)
        async with worker_parts(config, metrics, transport) as parts:
            if config.embedded_worker:
                parts.start()
            gatekeeper = Gatekeeper(config, signer, KeyStore(parts.database))
            app.state.service = Service(config, parts, gatekeeper, signer)
            yield

    app = FastAPI(
        title="Silence to Sound",
        version=__version__,
        summary="Sound for silent videos",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    problems.install(app)
    for router in (jobs_api, retakes_api, shared_api, webhooks_api, about_api, legacy_api):
        app.include_router(router)
    describe_webhooks(app.webhooks)
    _add_metrics(app, metrics)
    _add_docs(app)
    _add_page(app, config.page_dir)
    _add_schemas(app)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip().rstrip("/") for origin in config.cors_origins.split(",")],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Range"],
            expose_headers=["Location", "ETag", "Retry-After", "RateLimit", "X-Request-ID"],
        )
    app.add_middleware(Edge, metrics=metrics)
    return app


def _operation_id(route: APIRoute) -> str:
    """Short names for clients that are made from the document: `get_job`, `get_shared_result`."""
    shared = route.path_format.startswith("/v1/shared/") and "shared" not in route.name
    return route.name.replace("get_", "get_shared_", 1) if shared else route.name


class Edge:
    """Security headers, a request id, a log line and a count for every answer, that to a failure of ours included."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["request_id"] = uuid.uuid4().hex[:16]
        logs.request_id.set(scope["request_id"])
        started_s, answering = time.monotonic(), False

        async def send_with_headers(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                self._count(scope, message["status"], time.monotonic() - started_s)
                own = (
                    (b"x-request-id", scope["request_id"].encode()),
                    (b"content-security-policy", _policy(scope["path"])),
                )
                message["headers"] = [*message.get("headers", ()), *own, *SECURITY_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            if not answering:  # nobody is left to be answered
                self._count(scope, HUNG_UP, time.monotonic() - started_s)
        except Exception as exc:
            if answering:  # the server breaks the answer off
                raise
            log.exception("request %s failed", scope["request_id"])
            answer = problems.respond(Request(scope), Problem.from_error(exc))
            await answer(scope, receive, send_with_headers)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        """By the route's pattern: an address may hold a shared link's token, which belongs in no log."""
        route, method = getattr(scope.get("route"), "path", "-"), scope["method"]
        method = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        if code := scope.get("problem_code"):
            self.metrics.refused.labels(code).inc()
        log.info("%s %s: %d after %.0f ms", method, route, status, 1000 * seconds)


def _policy(path: str) -> bytes:
    if path == "/docs":
        return DOCS_CSP.encode()
    return SHARED_CSP.encode() if path.startswith("/s/") else CSP.encode()


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", tags=["about"], summary="For Prometheus", response_class=PlainTextResponse)
    async def read_metrics(request: Request) -> Response:
        """Counts, no names. Proxies in front need not pass it on."""
        service = service_of(request)
        return Response(await metrics.read(service.store, service.outbox), media_type=CONTENT_TYPE)


def _add_docs(app: FastAPI) -> None:
    """Swagger UI from the installed package: the page loads nothing from elsewhere."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(DOCS_HTML)

    @app.get("/docs/start.js", include_in_schema=False)
    async def docs_start() -> Response:
        return Response(DOCS_START, media_type="text/javascript")

    app.mount("/docs/assets", StaticFiles(directory=str(files("fastapi_offline") / "static")))


def _add_page(app: FastAPI, folder: Path) -> None:
    if not (folder / "index.html").is_file():
        return

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> FileResponse:
        """The page, and the cookie that owns this browser's jobs."""
        answer = FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})
        service_of(request).gatekeeper.welcome(request, answer)
        return answer

    @app.get("/s/{token}", include_in_schema=False)
    async def shared_page(token: str) -> HTMLResponse:
        """The same page at a shared link; `base` lets its relative addresses resolve as if it stood at the root."""
        html = (folder / "index.html").read_text().replace("<head>", '<head><base href="../">', 1)
        return HTMLResponse(html, headers={"Cache-Control": "no-cache", "X-Robots-Tag": "noindex"})

    for name in PAGE_FOLDERS:
        if (folder / name).is_dir():
            app.mount(f"/{name}", StaticFiles(directory=folder / name))


def _add_schemas(app: FastAPI) -> None:
    """Names the bodies that routes read by hand, and the problem that every one may answer with."""
    plain = app.openapi

    def openapi() -> dict:
        if app.openapi_schema is None:
            known = plain()["components"]["schemas"]
            for model in (schemas.JsonUpload, schemas.Problem):
                known[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
            for address, path in app.openapi_schema["paths"].items():
                for operation in path.values():
                    if address not in NO_DATABASE:
                        _add_problem(operation["responses"], "database_away")
                    if operation.get("responses", {}).get("422", {}).get("description") == "Validation Error":
                        operation["responses"]["422"] = problems.describe("bad_input")[422]
            for told in app.openapi_schema["webhooks"].values():
                for unsaid in ("200", "422"):  # the framework's; what we make of answers is described
                    told["post"]["responses"].pop(unsaid, None)
            known.pop("HTTPValidationError", None)
            known.pop("ValidationError", None)
        return app.openapi_schema

    app.openapi = openapi


def _add_problem(responses: dict, code: str) -> None:
    """Beside what the route itself says of the same status."""
    ((status, told),) = problems.describe(code).items()
    known = responses.setdefault(str(status), told)
    if code not in known["content"][problems.MEDIA_TYPE]["examples"]:
        known["description"] += f" {told['description']}"
        known["content"][problems.MEDIA_TYPE]["examples"] |= told["content"][problems.MEDIA_TYPE]["examples"]
