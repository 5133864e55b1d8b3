"""A stand-in for the model server that answers quickly, as a process of its own: uvicorn tests.instant_model:app

The "sound" of a clip is the clip and a mark. One clip at a time; the others hear at once that it is busy.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from s2s import wire
from s2s.config import settings
from s2s.events import Progress, Stage

REPORT = {"duration_s": 1.0, "sample_rate": 22050, "category": "drum", "category_confidence": 0.9, "events": []}
STEPS = int(os.environ.get("INSTANT_STEPS", "1"))  # of each of its two stages, 50 ms each
slots = asyncio.Semaphore(3)


async def predict(request: Request) -> Response:
    asked = wire.parse_prediction(await request.body(), request.headers, settings().http_limits)
    if slots.locked():
        return JSONResponse({"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}, 503)

    async def lines() -> AsyncIterator[str]:
        async with slots:
            for stage in (Stage.FRAMES, Stage.MEL):
                for step in range(1, STEPS + 1):
                    yield wire.progress_line(Progress(stage, step, STEPS))
                    await asyncio.sleep(0.05)
            video = asked.file + b"\0\0\0\x0cfree" + hashlib.sha256(asked.file).digest()[:4]
            for line in wire.chunk_lines(video):
                yield line
            yield json.dumps(json.loads(wire.done_line(REPORT | {"seed": asked.wishes.seed}, video, "mp4"))) + "\n"

    return StreamingResponse(lines(), media_type=wire.NDJSON)


app = Starlette(routes=[Route(f"/predictions/{settings().model_name}", predict, methods=["POST"])])
