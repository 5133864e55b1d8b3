"""What the API says, as typed models: the source of /openapi.json."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from s2s.events import Stage
from s2s.wire import Problem, Wishes

StateName = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled", "expired"]


EndedState = Literal["succeeded", "failed", "canceled"]
WEBHOOK_URL = "is POSTed how the job ended, signed; see `webhooks` in this document. At most 1000 characters"


def timestamp(seconds: float) -> str:
    """Seconds since 1970 -> RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JobProgress(BaseModel):
    stage: Stage = Field(examples=["frames"])
    step: int = Field(ge=0, le=2**62, description="units of this stage that are done: a true count", examples=[120])
    total: int = Field(ge=0, le=2**62, description="units in this stage", examples=[250])
    fraction: float = Field(ge=0, le=1, description="share of the whole job", examples=[0.18])


class ReportEvent(BaseModel):
    time_s: float = Field(ge=0, le=86_400, description="from the start of the video", examples=[2.08])
    kind: str = Field(max_length=100, examples=["drum"])
    strength: float = Field(ge=0, le=1, description="relative loudness within the clip", examples=[0.9])
    confidence: float = Field(ge=0, le=1, examples=[0.97])


class Report(BaseModel):
    """What was heard in the picture, and how the sound was made."""

    model_config = ConfigDict(extra="allow")

    duration_s: float = Field(ge=0, le=86_400, examples=[10.0])
    sample_rate: int = Field(gt=0, le=384_000, examples=[22050])
    seed: int = Field(ge=0, examples=[0])
    category: str | None = Field(None, max_length=100, description="kind of sound that was used", examples=["drum"])
    category_confidence: float = Field(ge=0, le=1, examples=[0.98])
    events: list[ReportEvent] = Field(max_length=100_000)
    notes: list[str] = Field(default=[], max_length=100, description="e.g. that nothing was found that makes a sound")
    stage_seconds: dict[str, float] = Field(default={}, description="wall seconds by stage")


class ResultLinks(BaseModel):
    """There is something behind them once the job has succeeded."""

    self: str
    result: str
    audio: str
    peaks: str
    spectrogram: str
    description: str

    @classmethod
    def of(cls, here: str) -> Self:
        """`here`: the job's own address."""
        tails = {"self": "", "audio": "/audio.wav", "peaks": "/peaks.json", "spectrogram": "/spectrogram.png"}
        return cls(**{name: here + tails.get(name, f"/{name}") for name in cls.model_fields})


class Links(ResultLinks):
    events: str
    cancel: str
    share: str
    retake: str


class WebhookState(BaseModel):
    """Whether the address that was named has been told. It is not shown itself: it may hold secrets."""

    state: Literal["waiting", "pending", "delivered", "failed", "gone"] = Field(
        description="waiting: for the job; pending: for the receiver; failed: given up; gone: the receiver's 410"
    )
    attempts: int = Field(examples=[1])
    status: int | None = Field(description="HTTP status of the last answer; null: there was none", examples=[204])
    next_attempt_at: str | None = Field(description="while it is pending", examples=["2026-11-22T18:05:05.000Z"])


class Job(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10",
                    "state": "running",
                    "created_at": "2026-11-22T18:04:05.123Z",
                    "filename": "drum.mp4",
                    "options": Wishes(seed=7).model_dump(),
                    "progress": {"stage": "frames", "step": 120, "total": 250, "fraction": 0.188},
                    "queue_position": None,
                    "eta_s": 12.5,
                    "problem": None,
                    "report": None,
                    "expires_at": None,
                    "shared": None,
                    "webhook": None,
                    "links": Links.of("/v1/jobs/0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10").model_dump(),
                }
            ]
        }
    )

    id: str
    state: StateName
    created_at: str = Field(description="RFC 3339, UTC")
    filename: str = Field(description="as the upload called itself; only for people")
    options: Wishes = Field(description="what was asked for")
    progress: JobProgress | None
    queue_position: int | None = Field(description="1 is next; null when the job does not wait")
    eta_s: float | None = Field(description="seconds until it is finished, from recent jobs; null when nobody can know")
    problem: Problem | None = Field(description="why it failed")
    report: Report | None = Field(description="when it succeeded")
    expires_at: str | None = Field(description="when the files are deleted; set once the job is finished")
    shared: str | None = Field(description="the page of its shared link, where there is one")
    webhook: WebhookState | None = Field(description="of the address in `webhook_url`, where one was named")
    links: Links


class SharedJob(BaseModel):
    """What a shared link shows. It tells no id: whoever has the link can read, nothing else."""

    state: StateName
    created_at: str
    filename: str
    progress: JobProgress | None
    report: Report | None
    expires_at: str | None
    links: ResultLinks


class Share(BaseModel):
    url: str = Field(description="of the page that shows the result, for people", examples=["/s/5f0c..."])
    token: str
    expires_at: str | None = Field(description="with the result; null while the job is not finished")


class JobPage(BaseModel):
    jobs: list[Job]
    next_cursor: str | None = Field(description="for the next page; null on the last")


class Peaks(BaseModel):
    version: Literal[1] = 1
    sample_rate: int = Field(examples=[22050])
    samples_per_peak: int = Field(examples=[221])
    peaks: list[tuple[float, float]] = Field(description="lowest and highest sample of each stretch, -1 .. 1")


class DescribedEvent(BaseModel):
    time_s: float = Field(examples=[2.08])
    text: str = Field(examples=["0:02.1 drum hit, loud"])


class Description(BaseModel):
    text: str = Field(examples=["1 sound in 10.0 seconds, made as drum:\n0:02.1 drum hit, loud"])
    events: list[DescribedEvent]


class Quotas(BaseModel):
    max_queued: int = Field(description="jobs of all that may wait", examples=[100])
    max_queued_per_owner: int = Field(examples=[20])
    uploads_per_min: int = Field(description="clips and retakes of one owner", examples=[60])
    storage_bytes: int = Field(description="uploads and results of all jobs together", examples=[20_000_000_000])


class PublishedLimits(BaseModel):
    """What an upload may be, and what is kept for how long. The same values hold on every way in."""

    max_bytes: int = Field(examples=[50_000_000])
    max_duration_s: float = Field(examples=[120.0])
    min_duration_s: float = Field(examples=[0.5])
    max_long_side_px: int = Field(examples=[4096])
    max_frames_per_s: float = Field(examples=[120.0])
    max_frames: int = Field(examples=[14_400])
    containers: list[str] = Field(examples=[["mp4", "mov", "webm"]])
    retention_s: float = Field(description="a finished job and its files are kept so long", examples=[86_400.0])
    key_required: bool = Field(description="whether this caller needs an API key")
    quotas: Quotas
    webhooks: Literal["off", "https", "http"] = Field(description="addresses that `webhook_url` may name; http: both")


class Model(BaseModel):
    name: str
    version: str
    categories: list[str] = Field(description="kinds of sound that a request may ask for")


class Models(BaseModel):
    models: list[Model]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model_server: Literal["ready", "busy", "unavailable", "unknown"] | None = Field(
        None, description="as its last answer told; the gateway takes jobs whatever it is"
    )


class PredictionStarted(BaseModel):
    message: str = Field("Video processing started")
    filename: str = Field(examples=["0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10.mp4"])


class PredictionStatus(BaseModel):
    status: Literal["not_started", "processing", "completed", "error"]


class JsonUpload(Wishes):
    """The body of a JSON upload; a list of one such object is taken too."""

    file: str = Field(description="the video, base64", json_schema_extra={"contentEncoding": "base64"})
    webhook_url: str | None = Field(None, description=WEBHOOK_URL, json_schema_extra={"format": "uri"})


class Retake(Wishes):
    """What shall be otherwise. The address of the job before is not told; name it again."""

    webhook_url: str | None = Field(None, description=WEBHOOK_URL, json_schema_extra={"format": "uri"})


class WebhookSecret(BaseModel):
    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class EndedLinks(BaseModel):
    self: str
    result: str


class JobEnded(BaseModel):
    id: str
    state: EndedState
    created_at: str
    finished_at: str
    problem: Problem | None = Field(None, description="why it failed")
    links: EndedLinks = Field(description="from the root of the service's address")


class JobWebhook(BaseModel):
    """How a job ended. All else is at `data.links.self`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "job.succeeded",
                    "timestamp": "2026-11-22T18:04:19.870Z",
                    "data": {
                        "id": "0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10",
                        "state": "succeeded",
                        "created_at": "2026-11-22T18:04:05.123Z",
                        "finished_at": "2026-11-22T18:04:19.870Z",
                        "problem": None,
                        "links": {
                            "self": "/v1/jobs/0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10",
                            "result": "/v1/jobs/0b9f6c0e-2b1c-4b0a-9a55-5d2f3c1f7a10/result",
                        },
                    },
                }
            ]
        }
    )

    type: Literal["job.succeeded", "job.failed", "job.canceled"]
    timestamp: str = Field(description="when the job ended; every try says the same")
    data: JobEnded
