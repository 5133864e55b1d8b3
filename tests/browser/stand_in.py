"""A gateway that does what a test tells it: it serves the page and speaks the API's shapes, and makes no sound.

Only for states of the page that the real stack cannot be brought into at will (a queue of three, a stream that breaks,
an error of a certain code). What the product does is tested against the real stack in test_page_real_stack.py.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import uvicorn
from ball_clip import SAMPLE_RATE, bounces, knocks
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).resolve().parents[2] / "src" / "frontend_simple"
SHARES = {"probe": (0, 0.02), "frames": (0.02, 0.35), "features": (0.37, 0.15), "events": (0.52, 0.03),
          "mel": (0.55, 0.05), "vocode": (0.6, 0.35), "mux": (0.95, 0.05)}
TERMINAL = ("succeeded", "failed", "canceled", "expired")
NEWER = {"audio": "/audio.wav", "peaks": "/peaks.json", "spectrogram": "/spectrogram.png",
         "description": "/description"}
LINKS = [("self", ""), *((name, f"/{name}") for name in ("events", "result", "cancel")), *NEWER.items()]


def progress(stage: str, step: int, total: int) -> dict:
    start, share = SHARES[stage]
    return {"stage": stage, "step": step, "total": total, "fraction": round(start + share * step / total, 4)}


def knock_levels(duration_s: float, n: int = 600) -> list[float]:
    """Loudness of `ball_clip.knocks`, 0 .. 1, in n equal stretches."""
    sound = np.abs(knocks(duration_s))
    return [float(part.max()) for part in np.array_split(sound, n)]


def report(duration_s: float = 3.0, seed: int = 0, notes: tuple[str, ...] = (), events: list[dict] | None = None,
           offset_ms: float = 0) -> dict:
    strengths, kinds = (0.95, 0.5, 0.7, 0.2), ("ball_bounce", "ball_bounce", "wood_hit")
    if events is None:
        events = [{"time_s": at, "kind": kinds[i % 3], "strength": strengths[i % 4], "confidence": 0.9 - 0.2 * (i % 4)}
                  for i, at in enumerate(bounces(duration_s))]
    events = [{"kind": "ball_bounce", "confidence": 1.0, **event, "time_s": event["time_s"] + offset_ms / 1000}
              for event in events]
    return {"duration_s": duration_s, "category": "ball_bounce", "category_confidence": 0.82, "events": events,
            "seed": seed, "notes": list(notes), "sample_rate": 22_050}


@dataclass
class Desk:
    """What the stand-in shall do next, and what it was asked for. `jobs` are mutable job documents by id."""

    result: Path
    h264: Path | None = None
    jobs: dict[str, dict] = field(default_factory=dict)
    first: dict = field(default_factory=lambda: {"state": "queued", "queue_position": 1, "eta_s": 4})
    refuse: tuple[int, dict] | None = None  # status and body for the next POST
    broken: bool = False  # every answer is a cut connection
    failing_results: int = 0  # so many answers to who asks for the result are 503
    silent_streams: bool = False  # a proxy that holds event streams back
    posts: list[dict] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    upload_delay_s: float = 0.0
    hold: bool = False  # an upload that came in gets no answer yet
    retakes: list[tuple[str, dict]] = field(default_factory=list)  # (parent, wishes)
    retake_refusal: tuple[int, str] | None = None  # status and code for every retake
    shares: dict[str, str] = field(default_factory=dict)  # token -> job
    peaks: list[list[float]] = field(default_factory=lambda: [[-v, v] for v in knock_levels(3.0)])
    older: bool = False  # a gateway that knows no sound, peaks, spectrogram, shares and retakes
    limits: dict = field(default_factory=lambda: {
        "max_bytes": 50_000_000, "max_duration_s": 120, "min_duration_s": 0.5, "max_long_side_px": 4096,
        "max_frames_per_s": 120, "retention_s": 86_400})

    def put(self, job_id: str, **fields) -> dict:
        """Create or change a job; every open event stream hears of it."""
        job = self.jobs.setdefault(job_id, {
            "id": job_id, "state": "queued", "created_at": "2026-05-04T10:20:30Z", "filename": "clip.mp4",
            "progress": None, "queue_position": None, "eta_s": None, "problem": None, "report": None,
            "expires_at": None, "version": 0, "options": {"seed": 0, "category": None},
            "links": {name: f"/v1/jobs/{job_id}{tail}" for name, tail in LINKS if not (self.older and name in NEWER)}})
        job.update(fields)
        job["version"] += 1
        return job

    @property
    def newest(self) -> str:
        return list(self.jobs)[-1]

    def move(self, stage: str, step: int, total: int) -> None:
        self.put(self.newest, state="running", progress=progress(stage, step, total))

    def succeed(self, **fields) -> None:
        made = self.jobs[self.newest]["options"]
        found = report(seed=made["seed"], events=made.get("events"), offset_ms=made.get("offset_ms") or 0)
        self.put(self.newest, **{"state": "succeeded", "progress": None, "report": found,
                                 "expires_at": "2030-05-05T10:20:30Z", **fields})

    def fail(self, code: str, detail: str = "", hint: str = "", request_id: str = "req-0123") -> None:
        self.put(self.newest, state="failed", problem={"title": code, "code": code, "detail": detail, "hint": hint,
                                                       "status": 422, "request_id": request_id})


def draw_spectrogram(sound: np.ndarray, width: int = 1200, height: int = 200) -> bytes:
    """PNG, frequency upwards, linear; black to yellow."""
    starts = np.linspace(0, len(sound) - 1, width).astype(int)
    padded = np.pad(sound, 512)
    bins = np.abs(np.fft.rfft(np.stack([padded[at:at + 1024] for at in starts]) * np.hanning(1024))).T[:height]
    shade = np.clip(1 + 20 * np.log10(bins + 1e-5) / 70, 0, 1)[::-1, :, None]
    picture = (shade * np.array([252, 200, 90]) * shade).astype(np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


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
        while desk.hold:
            await asyncio.sleep(0.02)
        upload = form["file"]
        desk.posts.append({"name": upload.filename, "bytes": upload.size, "seed": form.get("seed"),
                           "category": form.get("category"), "key": request.headers.get("idempotency-key")})
        if desk.refuse:
            (status, body), desk.refuse = desk.refuse, None
            return JSONResponse(body, status, media_type="application/problem+json")
        return public(desk.put(f"job-{len(desk.jobs) + 1}", filename=upload.filename, **desk.first, options={
            "seed": int(form["seed"]), "category": form.get("category"),
            "offset_ms": float(form.get("offset_ms", 0)), "gain_db": float(form.get("gain_db", 0)),
            "events": json.loads(form.get("events", "null"))}))

    @app.get("/v1/jobs/{job_id}")
    async def get(job_id: str):
        return public(desk.jobs[job_id])

    @app.post("/v1/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> dict:
        desk.canceled.append(job_id)
        return public(desk.put(job_id, state="canceled"))

    @app.get("/v1/jobs/{job_id}/result")
    async def result(job_id: str, format: str = "original"):
        if desk.failing_results:
            desk.failing_results -= 1
            return Response(status_code=503)
        if format == "h264":
            return FileResponse(desk.h264 or desk.result, media_type="video/mp4")
        return FileResponse(desk.result, media_type="video/mp4", content_disposition_type="inline", filename="r.mp4")

    @app.exception_handler(KeyError)
    async def gone(request: Request, error: KeyError) -> JSONResponse:
        return problem(404, "not_found")  # a test may clear the jobs while a page still asks for their parts

    def add_reads(prefix: str, job_of) -> None:
        @app.get(f"{prefix}/audio.wav")
        async def audio(name: str):
            samples = (knocks(job_of(name)["report"]["duration_s"]) * 32767).astype("<i2")
            told = io.BytesIO()
            with wave.open(told, "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, len(samples), "NONE", ""))
                file.writeframes(samples.tobytes())
            return Response(told.getvalue(), media_type="audio/wav")

        @app.get(f"{prefix}/peaks.json")
        async def peaks(name: str) -> dict:
            return {"version": 1, "sample_rate": SAMPLE_RATE, "samples_per_peak": 221, "peaks": desk.peaks}

        @app.get(f"{prefix}/spectrogram.png")
        async def spectrogram(name: str):
            return Response(draw_spectrogram(knocks(job_of(name)["report"]["duration_s"])), media_type="image/png")

    add_reads("/v1/jobs/{name}", lambda name: desk.jobs[name])
    add_reads("/v1/shared/{name}", lambda name: desk.jobs[desk.shares[name]])

    @app.post("/v1/jobs/{job_id}/retake", status_code=202)
    async def retake(job_id: str, request: Request):
        wishes = await request.json()
        desk.retakes.append((job_id, wishes))
        if desk.older or desk.retake_refusal:
            return problem(*(desk.retake_refusal or (404, "not_found")))
        return public(desk.put(f"job-{len(desk.jobs) + 1}", filename=desk.jobs[job_id]["filename"], **desk.first,
                               options={**desk.jobs[job_id]["options"], **wishes}))

    @app.post("/v1/jobs/{job_id}/share")
    async def share(job_id: str) -> dict:
        token = f"token-{len(desk.shares) + 1}"
        desk.shares[token] = job_id
        job = desk.put(job_id, shared=f"/s/{token}")
        return {"url": job["shared"], "token": token, "expires_at": job["expires_at"]}

    @app.delete("/v1/jobs/{job_id}/share", status_code=204)
    async def unshare(job_id: str) -> None:
        desk.shares = {token: shared for token, shared in desk.shares.items() if shared != job_id}
        desk.put(job_id, shared=None)

    @app.get("/v1/shared/{token}")
    async def shared(token: str):
        if token not in desk.shares:
            return problem(404, "not_found")
        job = public(desk.jobs[desk.shares[token]])
        return {name: job[name] for name in ("state", "filename", "created_at", "expires_at", "report",
                                            "links")}

    @app.get("/v1/shared/{token}/result")
    async def shared_result(token: str):
        return FileResponse(desk.result, media_type="video/mp4", content_disposition_type="inline", filename="r.mp4")

    @app.get("/s/{token}")
    async def shared_page(token: str):
        return HTMLResponse((PAGE / "index.html").read_text().replace("<head>", '<head><base href="../">', 1))

    @app.get("/v1/jobs/{job_id}/events")
    async def events(job_id: str, request: Request):
        if job_id not in desk.jobs:
            return problem(404, "not_found")

        async def stream():
            seen = -1
            while not await request.is_disconnected() and not desk.broken:
                job = desk.jobs[job_id]
                version = job["version"]  # before the rest: what changes meanwhile is told next
                if version != seen and not desk.silent_streams:
                    event, ended = as_event(job, first=seen < 0), job["state"] in TERMINAL
                    seen = version
                    yield event
                    if ended:
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
