"""The gateway over real HTTP, in front of a model server that answers at once and does what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import av
import httpx
import numpy as np
import uvicorn

from api_service.api.access import KeyStore
from api_service.api.database import Database
from api_service.api.protocol import options
from api_service.api.service import create_app
from s2s import wire
from s2s.config import Settings
from s2s.events import Progress, Stage

REPORT = {
    "duration_s": 1.0,
    "sample_rate": 22050,
    "seed": 0,
    "category": "drum",
    "category_confidence": 0.9,
    "events": [{"time_s": 0.5, "kind": "drum", "strength": 1.0, "confidence": 0.9}],
    "notes": [],
    "stage_seconds": {"mel": 0.1},
}


LIMITS = Settings().http_limits


def make_clip(path: Path, shade: int = 100, frames: int = 25) -> bytes:
    """One second of grey at 25 frames/s."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")))
        file.mux(video.encode())
    return path.read_bytes()


class ModelServer:
    """Answers `/predictions/s2s` as the real one would: the default "sound" of a clip is the clip and a mark.

    `plays` are the coming answers, one for each request, each a coroutine function (request, body) -> httpx.Response.
    """

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.plays: list[Callable[[httpx.Request, bytes], Awaitable[httpx.Response]]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.entered = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        self.requests.append(request)
        play = self.plays.pop(0) if self.plays else self.generate
        return await play(request, body)

    @staticmethod
    def sound_of(video: bytes) -> bytes:
        return video + b"\0\0\0\x0cfree" + hashlib.sha256(video).digest()[:4]

    async def generate(self, request: httpx.Request, body: bytes) -> httpx.Response:
        async def lines() -> AsyncIterator[bytes]:
            for stage in (Stage.FRAMES, Stage.MEL):
                for step in (1, 2):
                    yield wire.progress_line(Progress(stage, step, 2)).encode()
                self.entered.set()
                await self.go_on.wait()
            asked = wire.parse_prediction(body, request.headers, LIMITS)
            video = self.sound_of(asked.file)
            for line in wire.chunk_lines(video):
                yield line.encode()
            report = REPORT | {"seed": int(request.headers.get("x-s2s-seed", 0))}
            yield wire.done_line(report, video, "mp4").encode()

        return streamed(lines())

    async def die(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """The stream ends in the middle."""

        async def lines() -> AsyncIterator[bytes]:
            yield wire.progress_line(Progress(Stage.FRAMES, 1, 2)).encode()

        return streamed(lines())

    async def busy(self, request: httpx.Request, body: bytes) -> httpx.Response:
        return httpx.Response(503, json={"code": 503, "type": "ServiceUnavailableException", "message": "no worker"})


def streamed(lines: AsyncIterator[bytes]) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": wire.NDJSON}, content=lines)


def said(*lines: str) -> Callable[[httpx.Request, bytes], Awaitable[httpx.Response]]:
    """A model server that says these lines and nothing else."""

    async def play(request: httpx.Request, body: bytes) -> httpx.Response:
        async def stream() -> AsyncIterator[bytes]:
            for line in lines:
                yield line.encode()

        return streamed(stream())

    return play


@contextlib.asynccontextmanager
async def running(config: Settings, model_server: ModelServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that listens on a free port and is stopped as by SIGTERM."""
    app = create_app(config, httpx.MockTransport(model_server))
    server = uvicorn.Server(uvicorn.Config(app, port=0, **{**options(), "timeout_graceful_shutdown": 1}))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not task.done(), "the gateway did not start"
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            client.app = app
            yield client
    finally:
        server.should_exit = True
        await task


async def send(gateway: httpx.AsyncClient, video: bytes, **fields: str) -> dict:
    answer = await gateway.post("/v1/jobs", files={"file": ("my clip.mp4", video, "video/mp4")}, data=fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def finished(gateway: httpx.AsyncClient, job: dict, within_s: float = 10.0) -> dict:
    async with asyncio.timeout(within_s):
        while True:
            job = (await gateway.get(job["links"]["self"])).json()
            if job["state"] in ("succeeded", "failed", "canceled", "expired"):
                return job
            await asyncio.sleep(0.02)


async def events(gateway: httpx.AsyncClient, job: dict, last_event_id: int | None = None) -> list[tuple]:
    """[(id or None, name, data)] until the stream ends."""
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    answer = await gateway.get(job["links"]["events"], headers=headers)
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]) if "id" in fields else None, fields["event"], json.loads(fields["data"])))
    return found


async def key_for(config: Settings, *scopes: str, ttl_s: float | None = None) -> str:
    database = Database.of(config)
    await database.open()
    try:
        return await KeyStore(database).create("test", list(scopes), ttl_s)
    finally:
        await database.close()


def bearer(key: str) -> dict:
    return {"Authorization": f"Bearer {key}"}


async def value(gateway: httpx.AsyncClient, sample: str) -> float:
    """Of a line of /metrics."""
    text = (await gateway.get("/metrics")).text
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found, f"{sample} is not in\n{text}"
    return float(found[1])
