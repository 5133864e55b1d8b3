"""Every typed knob that is not a fact of a bundle: limits and places. The only reader of `os.environ`.

Network sizes live in the config class beside each network (`s2s.tsn.config`, ...), travel inside the bundle, and are
never read from the environment.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

REPO_ROOT = Path(__file__).resolve().parents[2]


class Limits(BaseModel):
    """What an upload may be. One value serves the page, nginx, the gateway, TorchServe and the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(gt=0, description="bytes of the raw file, before base64")
    max_duration_s: float = Field(gt=0)
    min_duration_s: float = 0.5
    max_long_side_px: int = 4096
    max_frames_per_s: float = 120.0

    @property
    def max_frames(self) -> int:
        """No file may hold more frames than its longest duration at the highest rate."""
        return int(self.max_duration_s * self.max_frames_per_s)

    @property
    def max_request_bytes(self) -> int:
        """Room for the file as base64 inside JSON, and for the other fields: 2,000 events are 120 kB."""
        return -(-self.max_bytes // 3) * 4 + 262_144


class Settings(BaseSettings):
    """Places and switches, from `S2S_*` environment variables. The README documents every field (a test holds it)."""

    model_config = SettingsConfigDict(env_prefix="S2S_", frozen=True, extra="ignore")

    bundle: Path = Field(REPO_ROOT / "model_store" / "s2s-small", description="the bundle that is served")
    archive: Path | None = Field(None, description="a .mar with its bundle inside, served as it is instead of `bundle`")
    materials: Path | None = Field(None, description="what training fetches, fetched before; see `s2s.materials`")
    data_dir: Path = Field(Path("var"), description="jobs, uploads and results of the gateway")
    device: str = Field("cpu", description="cpu or cuda")
    ffmpeg: str = Field("", description="path of ffmpeg; empty: the system's, else the one from PyPI")
    host: str = Field("127.0.0.1", description="address the gateway binds")
    port: int = Field(9000, description="port of the gateway and the page")
    model_server_url: str = Field("http://127.0.0.1:8080", description="TorchServe's inference address")
    model_name: str = Field("s2s", description="name of the model at TorchServe")
    model_workers: int = Field(1, ge=1, description="TorchServe workers: clips worked on at once")
    metrics_port: int = Field(8082, description="TorchServe's Prometheus port; 0 picks a free one")
    grpc_port: int = Field(7070, description="TorchServe's gRPC takes this port and the next; 0: free ones")
    response_timeout_s: int = Field(120, ge=3, description="a model worker silent for so long is restarted, seconds")
    stall_timeout_s: int = Field(600, ge=3, description="no true progress for so long: hung, seconds")
    cancel_dir: Path | None = Field(None, description="cancel flags, shared by gateway and model server")
    page_dir: Path = Field(REPO_ROOT / "src" / "frontend_simple", description="the static page that the gateway serves")
    lease_s: float = Field(30.0, gt=0, description="a running job that is silent for so long is taken over, seconds")
    max_attempts: int = Field(3, ge=1, description="tries of a job whose worker is lost")
    max_queued: int = Field(100, ge=1, description="jobs that may wait; above it new ones are refused with 503")
    result_ttl_s: float = Field(86_400.0, gt=0, description="finished jobs and their files are kept so long, seconds")
    database_url: str = Field("", description="postgresql://...: a job table shared by replicas; empty: SQLite")
    blobs_url: str = Field("", description="s3:// or gs:// for the files of one database; empty: the data directory")
    secret_key: SecretStr | None = Field(None, description="signs cookies, links, webhooks; PostgreSQL requires it")
    require_keys: bool | None = Field(None, description="API keys are required; unset: unless bound to loopback")
    anonymous: bool | None = Field(None, description="browsers need no key; unset: only on loopback")
    cors_origins: str = Field("", description="origins of other sites whose pages may use the API, with commas")
    embedded_worker: bool = Field(True, description="the gateway works on jobs too; else `s2s worker` does")
    worker_metrics_port: int = Field(0, description="where `s2s worker` tells Prometheus its counts; 0: nowhere")
    drain_s: float = Field(5.0, ge=0, description="when told to stop, running jobs get so long to finish, seconds")
    max_queued_per_owner: int = Field(20, ge=1, description="jobs of one owner that may wait")
    uploads_per_min: int = Field(60, ge=1, description="clips and retakes that one owner may send in a minute")
    max_uploads: int = Field(16, ge=1, description="uploads that may be coming in at once")
    upload_stall_s: float = Field(20.0, gt=0, description="an upload silent for so long is given up, seconds")
    orphan_s: float = Field(3600.0, gt=0, description="files that belong to no job are removed after so long, seconds")
    storage_bytes: int = Field(20_000_000_000, ge=1, description="uploads and results of all jobs together, bytes")
    webhooks: Literal["off", "https", "http"] = Field(
        "off", description="addresses that a job may name to be told how it ended; http: both")
    webhook_networks: str = Field("", description="private networks that webhooks may reach, with commas")
    webhook_timeout_s: float = Field(10.0, gt=0, description="a receiver of webhooks must answer within, seconds")
    webhook_retry_s: float = Field(5.0, gt=0, description="from a failed webhook to the next try; grows threefold")
    webhook_attempts: int = Field(10, ge=1, description="tries of a webhook")
    webhook_ttl_s: float = Field(86_400.0, gt=0, description="a webhook that nobody takes is given up after, seconds")
    http_max_bytes: int = Field(50_000_000, description="largest upload over HTTP, bytes")
    http_max_duration_s: float = Field(120.0, description="longest upload over HTTP, seconds")
    cli_max_bytes: int = Field(2_000_000_000, description="largest file on the command line, bytes")
    cli_max_duration_s: float = Field(600.0, description="longest file on the command line, seconds")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["text", "json"] = Field("text", description="text or json")

    def environment(self) -> dict[str, str]:
        """These settings as `S2S_*` variables, for a child process."""
        told = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in self}
        return {f"S2S_{name.upper()}": str(value) for name, value in told.items() if value is not None}

    @property
    def on_loopback(self) -> bool:
        """Only this machine can reach the gateway (unless a proxy lets others in)."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def keys_required(self) -> bool:
        return not self.on_loopback if self.require_keys is None else self.require_keys

    @property
    def anonymous_allowed(self) -> bool:
        return self.on_loopback if self.anonymous is None else self.anonymous

    @property
    def http_limits(self) -> Limits:
        return Limits(max_bytes=self.http_max_bytes, max_duration_s=self.http_max_duration_s)

    @property
    def cli_limits(self) -> Limits:
        return Limits(max_bytes=self.cli_max_bytes, max_duration_s=self.cli_max_duration_s)


def process_environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
