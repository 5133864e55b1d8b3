"""Is a new bundle better than the one that is served? If so it becomes the current one of a store of bundles.

STORE/NAME-SHA8/        a bundle, never changed once it is there
STORE/current.json      {"bundle": its folder, "before": the one before it, "metrics": ..., "why": ...}, written last

`pull_current` is the other end: whoever builds the model server's image asks the store what is to be served.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from s2s.bundle import read_manifest, verify_bundle
from s2s.data import blobs
from s2s.data.manifest import write_whole
from s2s.errors import ArtifactError

MARGIN = 0.02  # of strict skill on held-out renders: less is noise of some hundred clips
KIND_SLACK = 0.03  # of kind accuracy that may be lost for it


class Verdict(NamedTuple):
    better: bool
    why: str


def compare(candidate: dict, served: dict | None) -> Verdict:
    """By `metrics["rendered_held_out"]` of both: placed better by MARGIN, and kinds named no worse by KIND_SLACK."""
    if served is None:
        return Verdict(True, "nothing was served before")
    new, old = (metrics.get("rendered_held_out") for metrics in (candidate, served))
    if not new:
        return Verdict(False, "the new bundle was not measured")
    if not old:
        return Verdict(True, "the served bundle was not measured")
    gain = new["strict_skill"] - old["strict_skill"]
    loss = old["kind_accuracy"] - new["kind_accuracy"]
    said = f"strict skill {old['strict_skill']:.3f} -> {new['strict_skill']:.3f}, "
    said += f"kind accuracy {old['kind_accuracy']:.3f} -> {new['kind_accuracy']:.3f}"
    return Verdict(gain >= MARGIN and loss <= KIND_SLACK, said)


def current(store: Path) -> Path | None:
    """The bundle that is served from a store."""
    name = _pointer(store).get("bundle")
    return store / name if name else None


def _pointer(store: Path) -> dict:
    path = store / "current.json"
    return json.loads(path.read_text()) if path.exists() else {}


def promote(bundle: Path, store: Path, *, force: bool = False) -> Verdict:
    """Copies the bundle into the store and makes it the current one, if it is better (or `force`).

    Raises ArtifactError when the bundle is not whole. Doing it twice changes nothing.
    """
    manifest = verify_bundle(bundle)
    digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()[:8]
    home, served = store / f"{manifest.name}-{digest}", current(store)
    if served == home:
        return Verdict(True, "it is served already")
    verdict = compare(manifest.metrics, read_manifest(served).metrics if served else None)
    if not (verdict.better or force):
        return verdict
    if not home.exists():
        part = store / f".{home.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(bundle, part)
        part.rename(home)
    why = verdict.why if verdict.better else f"forced: {verdict.why}"
    _point(store, home.name, served.name if served else None, manifest.metrics, why)
    return Verdict(True, why)


def demote(store: Path, bundle: Path) -> None:
    """Takes a promotion back: the bundle that was served before is the current one again, or none."""
    before = _pointer(store).get("before")
    metrics = read_manifest(store / before).metrics if before else {}
    _point(store, before, None, metrics, f"{bundle.name} could not be served")


def _point(store: Path, name: str | None, before: str | None, metrics: dict, why: str) -> None:
    pointer = {"bundle": name, "before": before, "metrics": metrics, "why": why}
    write_whole(store / "current.json", json.dumps(pointer, indent=1) + "\n")


def pull_current(store: str, out: Path) -> str:
    """Brings the current bundle of a store (a folder, gs:// or s3://) to the folder `out`; returns its name.

    `out` is replaced only after every file was checked. Raises ArtifactError where nothing was promoted yet.
    """
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        pointer = blobs.fetch(f"{store}/current.json", part / "current.json")
        name = json.loads(pointer.read_text())["bundle"]
    except FileNotFoundError:
        name = None
    if name is None:
        raise ArtifactError(f"{store} has no current bundle.", hint="Promote one: s2s bundle promote.")
    blobs.pull(f"{store}/{name}", part / name)
    verify_bundle(part / name)
    shutil.rmtree(out, ignore_errors=True)
    (part / name).rename(out)
    shutil.rmtree(part)
    return name
