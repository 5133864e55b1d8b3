"""Files of jobs by job id and name: `in`, `out-<attempt>`, and what is derived from a result.

A file is written in a `scratch` directory and then `put`: under its name it is there whole or not at all. First the
blob is put, then the row is written.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from s2s.config import Settings
from s2s.errors import ArtifactError

log = logging.getLogger(__name__)

UPLOAD, RESULT = "in", "out-"
JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SWEEP_S = 60.0  # between two looks for what has expired or belongs to nobody
HaveFiles = Callable[[set[str]], Awaitable[set[str]]]  # job ids -> those of them whose files are still wanted


def result_name(attempt: int) -> str:
    """The attempt is part of the name, so that a worker which lost its lease cannot touch the winner's file."""
    return f"{RESULT}{attempt}"


def blobs_of(config: Settings) -> Blobs:
    """Raises ArtifactError when S2S_BLOBS_URL cannot be used."""
    if config.blobs_url:
        return ObjectBlobs(config.blobs_url, config.data_dir / "cache", config.data_dir / "scratch")
    return Blobs(config.data_dir / "blobs", config.data_dir / "scratch")


async def keep_disk_clear(blobs: Blobs, have_files: HaveFiles, orphan_s: float) -> None:
    """Sweeps this process's own disk until it is canceled. Each process does: no other can see what lies there."""
    every_s = min(SWEEP_S, orphan_s)
    while True:
        try:
            await blobs.sweep_disk(orphan_s, every_s, have_files)
        except Exception:  # the database is away: at the next sweep
            log.exception("the disk could not be swept")
        await asyncio.sleep(every_s)


class Blobs:
    """Local files, below `root/<job id>/`; the scratch directories lie on the same disk, so that `put` is a rename."""

    def __init__(self, root: Path, scratch: Path):
        self.root, self._scratch = root.resolve(), scratch.resolve()  # ffmpeg reads them from a directory of its own
        for folder in (self.root, self._scratch):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A fresh private directory with a random name, gone afterwards. The lock on it tells that somebody is there;
        it goes with the process, however that ends."""
        with tempfile.TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as folder:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                yield Path(folder)
            finally:
                os.close(lock)

    async def put(self, job_id: str, name: str, source: Path) -> None:
        """Takes `source` over."""
        folder = self.root / job_id
        folder.mkdir(mode=0o700, exist_ok=True)
        os.replace(source, folder / name)

    async def get(self, job_id: str, name: str) -> Path:
        """A local file to read from, never to change. Raises FileNotFoundError."""
        path = self.root / job_id / name
        path.stat()
        return path

    async def copy(self, job_id: str, name: str, to_job: str) -> int:
        """The same bytes for another job; how many. Raises FileNotFoundError."""
        source, folder = await self.get(job_id, name), self.root / to_job
        os.utime(source)  # both names have one age, and the sweep removes what is old and has no row yet
        folder.mkdir(mode=0o700, exist_ok=True)
        os.link(source, folder / name)  # nobody changes a blob
        return source.stat().st_size

    async def discard(self, job_id: str, name: str) -> None:
        """What cannot be deleted now is left to the sweep."""
        with _left_to_the_sweep(f"{job_id}/{name}"):
            (self.root / job_id / name).unlink(missing_ok=True)

    async def delete(self, job_id: str) -> None:
        """Everything of a job; what cannot be deleted now is left to the sweep."""
        await asyncio.to_thread(shutil.rmtree, self.root / job_id, ignore_errors=True)

    async def ages_s(self) -> dict[str, dict[str, float]]:
        """Job id -> name -> seconds since it was put."""
        return await asyncio.to_thread(self._ages_s)

    def _ages_s(self) -> dict[str, dict[str, float]]:
        now_s, found = time.time(), {}
        for folder in self.root.iterdir():
            names = found[folder.name] = {}
            with suppress(FileNotFoundError, NotADirectoryError):
                for file in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        names[file.name] = now_s - file.stat().st_mtime
                if not names:  # an empty directory is of the age of its last change
                    names[""] = now_s - folder.stat().st_mtime
        return found

    async def sweep_disk(self, orphan_s: float, fresh_s: float, have_files: HaveFiles) -> None:
        """Removes what processes that were killed have left for `orphan_s`."""
        for folder in list(self._scratch.iterdir()):
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > orphan_s and not _is_used(folder):
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@contextmanager
def _left_to_the_sweep(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as exc:
        log.warning("%s could not be deleted now: %s", what, exc)


def _is_used(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """A store that is away is to us what a disk that fails is."""
    try:
        yield
    except BaseError as exc:
        kind = FileNotFoundError if isinstance(exc, NotFoundError) else OSError
        raise kind(str(exc).partition("\n")[0]) from exc


class ObjectBlobs(Blobs):
    """An object store that replicas share (s3://, gs://, file://), by obstore. `root` is a cache: what is read is
    fetched whole once, because only a local file can be served in parts and be given to ffmpeg.

    Raises OSError when the store is away, FileNotFoundError for what is not in it."""

    def __init__(self, url: str, root: Path, scratch: Path):
        super().__init__(root, scratch)
        try:
            self._store = from_url(url, **({"mkdir": True} if url.startswith("file:") else {}))
        except (BaseError, ValueError, TypeError) as exc:
            raise ArtifactError(f"S2S_BLOBS_URL cannot be used: {exc}") from exc

    async def put(self, job_id: str, name: str, source: Path) -> None:
        with _as_os_errors():
            await obstore.put_async(self._store, f"{job_id}/{name}", source)
        await super().put(job_id, name, source)

    async def get(self, job_id: str, name: str) -> Path:
        try:
            return await super().get(job_id, name)
        except FileNotFoundError:
            pass
        with self.scratch() as folder:
            with _as_os_errors(), (folder / "blob").open("wb") as file:
                answer = await obstore.get_async(self._store, f"{job_id}/{name}")
                async for part in answer.stream():
                    file.write(part)
            await super().put(job_id, name, folder / "blob")
        return await super().get(job_id, name)

    async def copy(self, job_id: str, name: str, to_job: str) -> int:
        with _as_os_errors():
            size = (await obstore.head_async(self._store, f"{job_id}/{name}"))["size"]
            if isinstance(self._store, LocalStore):  # its copy is a link, as old as the first name of the file
                answer = await obstore.get_async(self._store, f"{job_id}/{name}")
                await obstore.put_async(self._store, f"{to_job}/{name}", answer)
            else:
                await obstore.copy_async(self._store, f"{job_id}/{name}", f"{to_job}/{name}")
        return size

    async def discard(self, job_id: str, name: str) -> None:
        await super().discard(job_id, name)
        await self._remove(f"{job_id}/{name}")

    async def delete(self, job_id: str) -> None:
        await super().delete(job_id)
        with _left_to_the_sweep(job_id), _as_os_errors():
            async for objects in obstore.list(self._store, prefix=job_id):
                for meta in objects:
                    await self._remove(meta["path"])

    async def _remove(self, path: str) -> None:
        with _left_to_the_sweep(path), _as_os_errors():
            await obstore.delete_async(self._store, path)

    async def ages_s(self) -> dict[str, dict[str, float]]:
        now_s, found = time.time(), {}
        with _as_os_errors():
            async for objects in obstore.list(self._store):
                for meta in objects:
                    job_id, _, name = meta["path"].partition("/")
                    if not JOB_ID.fullmatch(job_id):
                        continue  # not ours: a bucket may hold other things
                    found.setdefault(job_id, {})[name] = now_s - meta["last_modified"].timestamp()
        return found

    async def sweep_disk(self, orphan_s: float, fresh_s: float, have_files: HaveFiles) -> None:
        """Also copies of what is gone from the store, and all that lie here for `orphan_s`: who still looks at such a
        job has it fetched again. What came within `fresh_s` stays: an upload has no row yet."""
        await super().sweep_disk(orphan_s, fresh_s, have_files)
        ages_s = {
            job: min(names.values(), default=0.0) for job, names in (await asyncio.to_thread(self._ages_s)).items()
        }
        wanted = await have_files(set(ages_s))
        for job_id, age_s in ages_s.items():
            if age_s > (orphan_s if job_id in wanted else fresh_s):
                await super().delete(job_id)
