"""Uploads and results on disk: one random directory for each job. First the blob is written, then the row."""

from __future__ import annotations

import shutil
from pathlib import Path


class Blobs:
    """Paths below `root/<job id>/`. Whoever writes, writes `*.part` and renames."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, job_id: str) -> Path:
        """A fresh private directory, and the path where the upload goes."""
        folder = self.root / job_id
        folder.mkdir(mode=0o700)
        return folder / "in"

    def upload(self, job_id: str) -> Path:
        return self.root / job_id / "in"

    def result(self, job_id: str, attempt: int) -> Path:
        """The attempt is part of the name, so that a worker which lost its lease cannot touch the winner's file."""
        return self.root / job_id / f"out-{attempt}"

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self.root / job_id, ignore_errors=True)

    def ids(self) -> set[str]:
        return {folder.name for folder in self.root.iterdir()}

    def age_s(self, job_id: str, now_s: float) -> float:
        """Seconds since the directory was last changed; 0 when it is gone."""
        try:
            return now_s - (self.root / job_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0
