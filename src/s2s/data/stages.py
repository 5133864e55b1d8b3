"""The stages of the workflow on one root of storage: the same functions as the commands, with files brought and taken.

    ROOT/raw       data collector            ROOT/features   feature extractor
    ROOT/clips     data preprocessor         ROOT/run        training; ROOT/bundles: what is served

ROOT is a folder, gs:// or s3://. A stage returns a digest of what it made, which the next one takes: so a pipeline's
cache knows when something changed. What a stage did is brought back to ROOT even when it fails; its retry goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from s2s.data import blobs
from s2s.data.manifest import sha256_of


class Made(NamedTuple):
    digest: str  # sha256 of the file that names the others
    facts: dict[str, Any]  # for the metadata of the pipeline's artifact


@contextmanager
def workspace(root: str, reads: Sequence[str], writes: Sequence[str]) -> Iterator[Path]:
    """A local folder that looks like ROOT; it is ROOT itself where that is local."""
    if not blobs.is_remote(root):
        yield blobs.local_path(root)
        return
    with tempfile.TemporaryDirectory(prefix="s2s-stage-") as scratch:
        for name in (*reads, *writes):
            blobs.pull(f"{root}/{name}", Path(scratch) / name)
        try:
            yield Path(scratch)
        finally:
            for name in writes:
                (Path(scratch) / name).mkdir(exist_ok=True)
                blobs.push(Path(scratch) / name, f"{root}/{name}")


def collect(
    root: str, csv: str, address: str = "", per_minute: float = 30.0, workers: int = 2, licence: str = "unknown"
) -> Made:
    """csv: VGG-Sound's list, or a folder of VAS (ROOT/videos/CATEGORY/*.mp4); a path or an address in storage.

    An empty `address` is YouTube's. Raises InputError for a folder without VAS videos or a list that is none.
    """
    from s2s.data import collect as collecting

    with workspace(root, (), ("raw",)) as home:
        fetch = collecting.Downloader(per_minute=per_minute, licence=licence)
        if csv.endswith(".csv"):
            local = blobs.fetch(csv, home / "raw" / "wanted.csv")
            wanted = collecting.read_vggsound(local, address or collecting.YOUTUBE)
        else:
            folder = blobs.local_path(csv)
            if blobs.is_remote(csv):
                folder = home / "vas"
                blobs.pull(csv, folder)
            wanted = collecting.read_vas(folder)
        counts = collecting.collect(wanted, home / "raw", fetch=fetch, workers=workers)
        return Made(sha256_of(home / "raw" / "collected.jsonl"), counts)


def preprocess(root: str, recipe: str = "own", workers: int = 2) -> Made:
    from s2s.data.clips import RECIPES, make_set
    from s2s.data.collect import pieces_of_collection

    with workspace(root, ("raw",), ("clips",)) as home:
        report = make_set(pieces_of_collection(home / "raw"), home / "clips", RECIPES[recipe], workers=workers)
        return Made(sha256_of(home / "clips" / "manifest.jsonl"), {"clips": len(report.clips), **report.reasons})


def features(root: str, workers: int = 2) -> Made:
    from s2s.data.features import extract

    with workspace(root, ("clips",), ("features",)) as home:
        count = extract(home / "clips", home / "features", workers=workers)
        return Made(sha256_of(home / "features" / "features.json"), {"clips": count})


def train(root: str, recipe: str = "small", device: str = "cpu") -> Made:
    """facts: the metrics of the bundle ROOT/run/bundle on held-out renders."""
    from s2s.training.chain import RECIPES, train_all

    with workspace(root, ("clips", "features"), ("run",)) as home:
        run = home / "run"
        manifest = train_all(
            RECIPES[recipe], run, run / "bundle", device=device, clips=home / "clips", features=home / "features"
        )
        return Made(sha256_of(run / "bundle" / "bundle.json"), manifest.metrics["rendered_held_out"])


def deploy(root: str, force: bool = False) -> Made:
    """Makes the new bundle the current one of ROOT/bundles if it is better than that; see `s2s.training.promote`."""
    from s2s.training.promote import current, promote

    with workspace(root, ("run",), ("bundles",)) as home:
        verdict = promote(home / "run" / "bundle", home / "bundles", force=force)
        served = current(home / "bundles")
        return Made(sha256_of(served / "bundle.json"), {"deployed": verdict.better, "why": verdict.why})
