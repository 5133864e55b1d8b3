"""What can be read of a finished job: the same routes for its owner and for whoever has a shared link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from api_service.api import schemas
from api_service.api.gateway import H264, PEAKS, SPECTROGRAM, WAV, ServiceOf, check_succeeded, etag_of
from api_service.api.problems import describe, respond
from api_service.api.store import Job
from api_service.api.words import describe_sound
from s2s.errors import InputError
from s2s.wire import Problem

MEDIA_TYPE = {"mp4": "video/mp4", "webm": "video/webm"}
CACHE = "private, no-cache"  # ask whether it is still there: it can be deleted
NO_RESULT = ("not_found", "not_ready", "gone")
IfNoneMatch = Annotated[str | None, Header(description="An ETag that is still good is answered with 304.")]


def _file(codes: tuple[str, ...], *media_types: str) -> dict[str, Any]:
    """Keyword arguments of a route that answers with a file."""
    return {
        "response_class": FileResponse,
        "responses": {
            200: {"description": "The whole file.", "content": {kind: {} for kind in media_types}},
            206: {"description": "The part that `Range` asked for."},
            304: {"description": "`If-None-Match` has the ETag."},
            **describe(*NO_RESULT, "bad_range", "storage_away", *codes),
        },
    }


def add_reads(router: APIRouter, job_of: Callable[..., Any], *codes: str) -> None:
    """Adds /result, /audio.wav, /peaks.json, /spectrogram.png and /description. `job_of` finds the job or raises.

    `codes`: what it may raise beside not_found.
    """
    found = Depends(job_of)

    @router.get("/result", summary="The clip with its sound", **_file((*codes, "no_copy"), "video/mp4", "video/webm"))
    async def get_result(
        request: Request,
        service: ServiceOf,
        job: Job = found,
        kind: Annotated[
            Literal["original", "h264"],
            Query(
                alias="format",
                description="`h264`: a copy in H.264 and AAC, which play anywhere, made on the first demand; "
                "no larger than 1080p.",
            ),
        ] = "original",
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """`original` is the picture that was sent, untouched, with the new sound."""
        if kind == "h264":
            return file_answer(request, await service.derived(job, H264), job, "video/mp4", "-with-sound.mp4")
        path = await service.result(job)
        return file_answer(request, path, job, MEDIA_TYPE[job.container], f"-with-sound.{job.container}")

    @router.get("/audio.wav", summary="Its sound alone", **_file(codes, "audio/wav"))
    async def get_audio(
        request: Request, service: ServiceOf, job: Job = found, if_none_match: IfNoneMatch = None
    ) -> Response:
        """16-bit mono WAV, exactly as long as the clip; made on the first demand."""
        return file_answer(request, await service.derived(job, WAV), job, "audio/wav", "-sound.wav")

    @router.get("/peaks.json", summary="Its sound as a line to draw", response_model=schemas.Peaks, **_file(codes))
    async def get_peaks(
        request: Request, service: ServiceOf, job: Job = found, if_none_match: IfNoneMatch = None
    ) -> Response:
        return file_answer(request, await service.derived(job, PEAKS), job, "application/json", "-peaks.json")

    @router.get("/spectrogram.png", summary="Its sound as a picture", **_file(codes, "image/png"))
    async def get_spectrogram(
        request: Request, service: ServiceOf, job: Job = found, if_none_match: IfNoneMatch = None
    ) -> Response:
        """Time to the right, exactly the clip's length; frequency upwards on the mel scale; no axes."""
        return file_answer(request, await service.derived(job, SPECTROGRAM), job, "image/png", "-spectrogram.png")

    @router.get(
        "/description",
        summary="Its sound in words",
        response_model=schemas.Description,
        responses={
            200: {"description": "As JSON, or as text by `Accept: text/plain`.", "content": {"text/plain": {}}},
            **describe(*NO_RESULT, *codes),
        },
    )
    async def get_description(
        job: Job = found, accept: Annotated[str, Header(description="application/json or text/plain")] = "*/*"
    ) -> Response:
        """For people who cannot see the picture or hear the sound: every event with its time and loudness."""
        check_succeeded(job)
        told = describe_sound(job.report)
        headers = {"Cache-Control": CACHE, "Vary": "Accept"}
        if "text/plain" in accept and "json" not in accept:
            return PlainTextResponse(told["text"] + "\n", headers=headers)
        return JSONResponse(told, headers=headers)


def file_answer(
    request: Request, path: Path, job: Job, media_type: str, tail: str, *, filename: str = "", attach: bool = False
) -> Response:
    """A blob with Range, ETag and a fixed type. `tail` of the download's name follows the upload's own."""
    etag = etag_of(job.result_sha256, path.name)
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": CACHE})
    filename = filename or (Path(job.filename).stem or "video") + tail
    disposition = f"{'attachment' if attach else 'inline'}; filename*=UTF-8''{quote(filename)}"
    headers = {"ETag": etag, "Cache-Control": CACHE, "Content-Disposition": disposition}
    return BlobAnswer(path, media_type=media_type, headers=headers)


class BlobAnswer(FileResponse):
    """A range that cannot be satisfied is told as a problem too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = False

        async def tell(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = True
                problem = Problem.from_error(InputError("There are no such bytes.", code="bad_range"))
                extra = {"Content-Range": f"bytes */{self.path.stat().st_size}"}
                await respond(Request(scope), problem, extra)(scope, receive, send)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, tell)
