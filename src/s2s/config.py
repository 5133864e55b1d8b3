"""Every typed knob that is not a fact of a bundle: limits and places. The only reader of `os.environ`.

Network sizes live in the config class beside each network (`s2s.tsn.config`, ...), travel inside the bundle, and are
never read from the environment.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
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
        """Room for the file as base64 inside JSON, with a little for the other fields."""
        return -(-self.max_bytes // 3) * 4 + 65_536


class Settings(BaseSettings):
    """Places and switches, from `S2S_*` environment variables. Every field is documented in the README (a test holds it)."""

    model_config = SettingsConfigDict(env_prefix="S2S_", frozen=True, extra="ignore")

    bundle: Path = Field(REPO_ROOT / "model_store" / "s2s-small", description="the bundle that is served")
    data_dir: Path = Field(Path("var"), description="jobs, uploads and results of the gateway")
    device: str = Field("cpu", description="cpu or cuda")
    ffmpeg: str = Field("", description="path of ffmpeg; empty: the system's, else the one from PyPI")
    host: str = Field("127.0.0.1", description="address the gateway binds")
    port: int = Field(9000, description="port of the gateway and the page")
    model_server_url: str = Field("http://127.0.0.1:8080", description="TorchServe's inference address")
    model_name: str = Field("s2s", description="name of the model at TorchServe")
    http_max_bytes: int = Field(50_000_000, description="largest upload over HTTP, bytes")
    http_max_duration_s: float = Field(120.0, description="longest upload over HTTP, seconds")
    cli_max_bytes: int = Field(2_000_000_000, description="largest file on the command line, bytes")
    cli_max_duration_s: float = Field(600.0, description="longest file on the command line, seconds")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @property
    def http_limits(self) -> Limits:
        return Limits(max_bytes=self.http_max_bytes, max_duration_s=self.http_max_duration_s)

    @property
    def cli_limits(self) -> Limits:
        return Limits(max_bytes=self.cli_max_bytes, max_duration_s=self.cli_max_duration_s)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
