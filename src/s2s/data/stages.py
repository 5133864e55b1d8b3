"""The stages of the workflow on one root of storage: the same functions as the commands, with files brought and taken.

    ROOT/raw            data collector              ROOT/run/KEY       training: bundle, report, s2s.mar
    ROOT/clips          data preprocessor           ROOT/run/latest    which KEY was trained last
    ROOT/features/KEY   feature extractor           ROOT/bundles       what is served

ROOT is a folder, gs:// or s3://. A KEY stands for the clips (and the recipe), so that a grown collection is extracted
and learned from anew beside what was there. A stage returns a digest of what it made, which the next one takes: so a
pipeline's cache knows when something changed. What a stage did is brought back to ROOT even when it fails or is told to
end (SIGTERM); its retry goes on.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from s2s.data import blobs
from s2s.data.manifest import sha256_of, write_whole
from s2s.errors import InputError, ProcessingError


class Made(NamedTuple):
    digest: str  # sha256 of the file that names the others
    facts: dict[str, Any]  # for the metadata of the pipeline's artifact


@contextmanager
def workspace(root: str, reads: Sequence[str], writes: Sequence[str]) -> Iterator[Path]:
    """A local folder that looks like ROOT; it is ROOT itself where that is local."""
    if not blobs.is_remote(root):
        yield blobs.local_path(root)
        return
    with _orderly_end(), tempfile.TemporaryDirectory(prefix="s2s-stage-") as scratch:
        for name in (*reads, *writes):
            blobs.pull(f"{root}/{name}", Path(scratch) / name)
        try:
            yield Path(scratch)
        finally:
            for name in writes:
                (Path(scratch) / name).mkdir(parents=True, exist_ok=True)
                blobs.push(Path(scratch) / name, f"{root}/{name}")


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM, which a preempted machine sends, unwinds the stack once instead of ending the process at once."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one would cut off the way back
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _clips_key(root: str, more: str = "") -> str:
    """Eight digits for the set at ROOT/clips and what else decides. Raises InputError when there is no set."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            held = blobs.fetch(f"{root}/clips/manifest.jsonl", Path(scratch) / "manifest.jsonl").read_bytes()
    except FileNotFoundError as exc:
        raise InputError(f"{root} holds no finished set of clips.", hint="Run the data preprocessor first.") from exc
    return hashlib.sha256(held + more.encode()).hexdigest()[:8]


def _latest_run(root: str) -> str:
    """`run/KEY` of what was trained last. Raises InputError when nothing was."""
    with workspace(root, ("run/latest",), ()) as home:
        pointer = home / "run" / "latest" / "run.json"
        if not pointer.is_file():
            raise InputError(f"{root} holds no training run.", hint="Run the training stage first.")
        return f"run/{json.loads(pointer.read_text())['run']}"


def collect(
    root: str,
    csv: str,
    address: str = "",
    labels: Sequence[str] = (),
    per_minute: float = 30.0,
    workers: int = 2,
    licence: str = "unknown",
) -> Made:
    """csv: VGG-Sound's list, or a folder of VAS (ROOT/videos/CATEGORY/*.mp4); a path or an address in storage.

    labels: only these; none means all. An empty `address` is YouTube's. Raises InputError for a folder without VAS
    videos or a list that is none.
    """
    from s2s.data import collect as collecting

    with workspace(root, (), ("raw",)) as home:
        fetch = collecting.Downloader(per_minute=per_minute, licence=licence)
        if csv.endswith(".csv"):
            local = blobs.fetch(csv, home / "raw" / "wanted.csv")
            wanted = collecting.read_vggsound(local, address or collecting.YOUTUBE, frozenset(labels))
        elif blobs.is_remote(csv):
            folder = (home / "vas").resolve()
            blobs.pull(csv, folder)
            place = csv.rstrip("/")
            wanted = (  # called by their address: the folder has another name in every run
                one._replace(source=f"{place}/{Path(one.source).relative_to(folder).as_posix()}")
                for one in collecting.read_vas(folder, frozenset(labels))
            )

            def fetch(address: str, _: Path) -> tuple[Path, str]:
                return folder / address.removeprefix(f"{place}/"), licence
        else:
            wanted = collecting.read_vas(blobs.local_path(csv), frozenset(labels))
        counts = collecting.collect(wanted, home / "raw", fetch=fetch, workers=workers)
        return Made(sha256_of(home / "raw" / "collected.jsonl"), counts)


def preprocess(root: str, recipe: str = "own", kinds: Mapping[str, str] | None = None, workers: int = 2) -> Made:
    """kinds: label -> kind of sound; only clips of a kind are learned from."""
    from s2s.data.clips import RECIPES, make_set
    from s2s.data.collect import pieces_of_collection

    with workspace(root, ("raw",), ("clips",)) as home:
        pieces = pieces_of_collection(home / "raw")
        report = make_set(pieces, home / "clips", RECIPES[recipe], kinds=kinds, workers=workers)
        return Made(sha256_of(home / "clips" / "manifest.jsonl"), {"clips": len(report.clips), **report.reasons})


def features(root: str, recipe: str = "small", published: str = "", workers: int = 2) -> Made:
    """recipe: of training, which says whether photographs are looked at.

    published: the place of an imported bundle; REGNET's own feature files of the set are written to ROOT/published/KEY.
    """
    from s2s.data.features import extract, extract_published
    from s2s.training.chain import RECIPES, new_recogniser

    photographs = RECIPES[recipe].photographs
    part = f"features/{_clips_key(root, f'photographs {photographs}')}"
    theirs = f"published/{_clips_key(root, published)}"
    with workspace(root, ("clips",), (part, theirs) if published else (part,)) as home:
        with tempfile.TemporaryDirectory(prefix="s2s-weights-") as scratch:
            backbone = new_recogniser(Path(scratch)) if photographs else None
            count = extract(home / "clips", home / part, backbone=backbone, workers=workers)
            if published:
                bundle = blobs.local_path(published)
                if blobs.is_remote(published):
                    bundle = Path(scratch) / "bundle"
                    blobs.pull(published, bundle)
                extract_published(home / "clips", home / theirs, bundle, workers=workers)
        return Made(sha256_of(home / part / "features.json"), {"clips": count, "place": f"{root}/{part}"})


def train(root: str, recipe: str = "small", device: str = "cpu") -> Made:
    """facts: the metrics of the bundle on held-out renders, and its place."""
    from s2s.training.chain import RECIPES
    from s2s.training.run import run_training

    chosen = RECIPES[recipe]
    measured = f"features/{_clips_key(root, f'photographs {chosen.photographs}')}"
    asked = chosen.model_dump_json(exclude={"report_clips"})
    part = f"run/{_clips_key(root, asked)}"
    with workspace(root, ("clips", measured), (part, "run/latest")) as home:
        run = home / part
        manifest = run_training(
            chosen, run, run / "bundle", device=device, clips=home / "clips", features=home / measured
        )
        write_whole(home / "run" / "latest" / "run.json", json.dumps({"run": run.name, "recipe": recipe}) + "\n")
        facts = {**manifest.metrics["rendered_held_out"], "place": f"{root}/{part}/bundle"}
        return Made(sha256_of(run / "bundle" / "bundle.json"), facts)


def evaluate(
    root: str, recipe: str = "small", device: str = "cpu", pages: Mapping[str, Sequence[Path]] | None = None
) -> Made:
    """Writes the report of the last run. facts: its figures.

    pages: {"renders" or "own": where copies of its web page go, or of its JSON for names that end so}.
    """
    from s2s.training.chain import RECIPES
    from s2s.training.run import headline, report_run

    part = _latest_run(root)
    with workspace(root, ("clips",), (part,)) as home:
        run = home / part
        studies = report_run(RECIPES[recipe], run, run / "bundle", device=device, clips=home / "clips")
        write_whole(run / "report" / "figures.json", json.dumps(headline(studies), indent=1) + "\n")
        for name, target in [(name, target) for name, targets in (pages or {}).items() for target in targets]:
            made = run / "report" / name / ("study.json" if target.suffix == ".json" else "index.html")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(made.read_bytes() if made.is_file() else b"<p>The set has no held-out clips.</p>")
        return Made(sha256_of(run / "report" / "figures.json"), headline(studies))


def export(root: str, copy_to: Path | None = None) -> Made:
    """Packs the last run's bundle with the handler: ROOT/run/KEY/s2s.mar, and a copy of it. Raises ProcessingError."""
    part = _latest_run(root)
    with workspace(root, (), (part,)) as home:
        archive = home / part / "s2s.mar"
        # The command of the component that owns the format: `s2s` imports no component.
        command = [sys.executable, "-m", "model_deployment.build_mar", "--whole"]
        command += ["--bundle", str(home / part / "bundle"), "--out", str(archive)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ProcessingError("The model cannot be packed: " + done.stderr.strip().rsplit("\n", 1)[-1])
        if copy_to is not None:
            copy_to.parent.mkdir(parents=True, exist_ok=True)
            copy_to.write_bytes(archive.read_bytes())
        return Made(sha256_of(archive), {"bytes": archive.stat().st_size, "place": f"{root}/{part}/s2s.mar"})


def deploy(
    root: str,
    force: bool = False,
    cluster: str = "",
    namespace: str = "s2s",
    within_s: float = 1200.0,
    plain_http: bool = False,
) -> Made:
    """Makes the last run's bundle the current one of ROOT/bundles if it is better than that, and rolls it out to a
    cluster that is named; see `s2s.rollout.deploy`."""
    from s2s.rollout import deploy as put
    from s2s.training.promote import current

    part = _latest_run(root)
    with workspace(root, (f"{part}/bundle",), ("bundles",)) as home:
        verdict, rollout = put(
            home / part / "bundle",
            home / "bundles",
            force=force,
            cluster=cluster,
            namespace=namespace,
            within_s=within_s,
            plain_http=plain_http,
        )
        served = current(home / "bundles")
        facts = {"deployed": verdict.better, "why": verdict.why, "served": served.name, "rollout": rollout}
        return Made(sha256_of(served / "bundle.json"), facts)
