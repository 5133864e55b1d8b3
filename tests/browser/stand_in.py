"""A gateway that does what a test tells it: it serves the page and speaks the API's shapes, and makes no sound.

Only for states of the page that the real stack cannot be brought into at will (a queue of three, a stream that breaks,
an error of a certain code). What the product does is tested against the real stack in test_page_real_stack.py.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from ball_clip import bounces
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).resolve().parents[2] / "src" / "frontend_simple"
SHARES = {"probe": (0, 0.02), "frames": (0.02, 0.35), "features": (0.37, 0.15), "events": (0.52, 0.03),
          "mel": (0.55, 0.05), "vocode": (0.6, 0.35), "mux": (0.95, 0.05)}
TERMINAL = ("succeeded", "failed", "canceled", "expired")


def progress(stage: str, step: int, total: int) -> dict:
    start, share = SHARES[stage]
    return {"stage": stage, "step": step, "total": total, "fraction": round(start + share * step / total, 4)}


def report(duration_s: float = 3.0, seed: int = 0, notes: tuple[str, ...] = ()) -> dict:
    strengths, kinds = (0.95, 0.5, 0.7, 0.2), ("ball_bounce", "ball_bounce", "wood_hit")
    events = [{"time_s": at, "kind": kinds[i % 3], "strength": strengths[i % 4], "confidence": 0.9 - 0.2 * (i % 4)}
              for i, at in enumerate(bounces(duration_s))]
    return {"duration_s": duration_s, "category": "ball_bounce", "category_confidence": 0.82, "events": events,
            "seed": seed, "notes": list(notes), "sample_rate": 22_050}


@dataclass
class Desk:
    """What the stand-in shall do next, and what it was asked for. `jobs` are mutable job documents by id."""

    result: Path
    jobs: dict[str, dict] = field(default_factory=dict)
    first: dict = field(default_factory=lambda: {"state": "queued", "queue_position": 1, "eta_s": 4})
    refuse: tuple[int, dict] | None = None  # status and body for the next POST
    broken: bool = False  # every answer is a cut connection
    silent_streams: bool = False  # a proxy that holds event streams back
    posts: list[dict] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    upload_delay_s: float = 0.0
    limits: dict = field(default_factory=lambda: {
        "max_bytes": 50_000_000, "max_duration_s": 120, "min_duration_s": 0.5, "max_long_side_px": 4096,
        "max_frames_per_s": 120})

    def put(self, job_id: str, **fields) -> dict:
        """Create or change a job; every open event stream hears of it."""
        job = self.jobs.setdefault(job_id, {
            "id": job_id, "state": "queued", "created_at": "2026-05-04T10:20:30Z", "filename": "clip.mp4",
            "progress": None, "queue_position": None, "eta_s": None, "problem": None, "report": None,
            "expires_at": None, "version": 0, "options": {"seed": 0, "category": None},
            "links": {name: f"/v1/jobs/{job_id}{tail}" for name, tail in (
                ("self", ""), ("events", "/events"), ("result", "/result"), ("cancel", "/cancel"))}})
        job.update(fields)
        job["version"] += 1
        return job

    @property
    def newest(self) -> str:
        return list(self.jobs)[-1]

    def move(self, stage: str, step: int, total: int) -> None:
        self.put(self.newest, state="running", progress=progress(stage, step, total))

    def succeed(self, **fields) -> None:
        seed = int(self.posts[-1]["seed"]) if self.posts else 0
        self.put(self.newest, **{"state": "succeeded", "progress": None, "report": report(seed=seed), **fields})

    def fail(self, code: str, detail: str = "", hint: str = "", request_id: str = "req-0123") -> None:
        self.put(self.newest, state="failed", problem={"title": code, "code": code, "detail": detail, "hint": hint,
                                                       "status": 422, "request_id": request_id})


def public(job: dict) -> dict:
    return {name: value for name, value in job.items() if name != "version"}


def problem(status: int, code: str, detail: str = "") -> JSONResponse:
    return JSONResponse({"type": f"urn:s2s:problem:{code}", "title": code, "status": status, "detail": detail,
                         "code": code, "hint": "", "request_id": "req-0123"}, status,
                        media_type="application/problem+json")


def create_stand_in(desk: Desk) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def note(request: Request, call_next):
        desk.asked.append(f"{request.method} {request.url.path}")
        if desk.broken and request.url.path.startswith("/v1"):
            return Response(status_code=502, content="<html>Bad Gateway</html>", media_type="text/html")
        return await call_next(request)

    @app.get("/v1/limits")
    async def limits() -> dict:
        return desk.limits

    @app.get("/v1/models")
    async def models() -> dict:
        kinds = ["ball_bounce", "wood_hit", "footstep"]
        return {"models": [{"name": "s2s-small", "version": "1", "categories": kinds}]}

    @app.post("/v1/jobs", status_code=202)
    async def create(request: Request):
        form = await request.form()
        await asyncio.sleep(desk.upload_delay_s)
        upload = form["file"]
        desk.posts.append({"name": upload.filename, "bytes": upload.size, "seed": form.get("seed"),
                           "category": form.get("category"), "key": request.headers.get("idempotency-key")})
        if desk.refuse:
            (status, body), desk.refuse = desk.refuse, None
            return JSONResponse(body, status, media_type="application/problem+json")
        return public(desk.put(f"job-{len(desk.jobs) + 1}", filename=upload.filename, **desk.first, options={
            "seed": int(form["seed"]), "category": form.get("category")}))

    @app.get("/v1/jobs/{job_id}")
    async def get(job_id: str):
        return public(desk.jobs[job_id]) if job_id in desk.jobs else problem(404, "not_found")

    @app.post("/v1/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> dict:
        desk.canceled.append(job_id)
        return public(desk.put(job_id, state="canceled"))

    @app.get("/v1/jobs/{job_id}/result")
    async def result(job_id: str):
        return FileResponse(desk.result, media_type="video/mp4", content_disposition_type="inline", filename="r.mp4")

    @app.get("/v1/jobs/{job_id}/events")
    async def events(job_id: str, request: Request):
        if job_id not in desk.jobs:
            return problem(404, "not_found")

        async def stream():
            seen = -1
            while not await request.is_disconnected() and not desk.broken:
                job = desk.jobs[job_id]
                if job["version"] != seen and not desk.silent_streams:
                    yield as_event(job, first=seen < 0)
                    seen = job["version"]
                    if job["state"] in TERMINAL:
                        return
                await asyncio.sleep(0.02)

        return StreamingResponse(stream(), media_type="text/event-stream")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def as_event(job: dict, first: bool) -> str:
    if first:
        name, data = "snapshot", public(job)
    elif job["state"] == "queued":
        name, data = "queued", {"position": job["queue_position"], "eta_s": job["eta_s"]}
    elif job["state"] == "running":
        name, data = "progress", job["progress"]
    else:
        name, data = job["state"], public(job)
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Run `app` on a free loopback port in a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning",
                                           timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the stand-in did not start")
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
