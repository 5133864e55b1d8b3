"""A set of clips -> what networks train on, computed once.

    FEATURES/features.json                 what was asked for: of which set, by which bundle (its bundle.json)
    FEATURES/shard-0000/ID.safetensors     rgb uint8 (T, 96, 96, 3), flow float16 (T, 48, 48, 2),
                                           photo float32 (S, 1280): as `s2s.training.tsn.SeenClip`;
                                           cells, scene float16: motion on the timing grid; mel float16 (80, M);
                                           with a bundle also visual float32 (T, visual_dim)
    FEATURES/shard-0000/index.jsonl        {"id", "file", "sha256", "split"} a line, in order of id
    FEATURES/shard-0000/COMPLETE           written last

`published` writes REGNET's own files instead: pickles of BN-Inception features and .npy mels, with an imported bundle.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

from s2s.bundle import Bundle, load_bundle
from s2s.config import settings
from s2s.data.clips import in_parallel
from s2s.data.manifest import Clip, agree, read_clips, read_lines, sha256_of, write_whole
from s2s.errors import ArtifactError, InputError
from s2s.features import watch
from s2s.media.probe import probe
from s2s.mel import mel_spectrogram
from s2s.recognise import Recogniser
from s2s.spec import PUBLISHED_CLIP, ClipSpec
from s2s.training.timing import measure_motion
from s2s.training.tsn import see_clip

SHARD_CLIPS = 100
OnClip = Callable[[int, int], None]


def extract(
    set_dir: Path,
    out: Path,
    *,
    bundle_dir: Path | None = None,
    backbone: Recogniser | None = None,
    workers: int = 1,
    on_clip: OnClip = lambda done, total: None,
) -> int:
    """Writes, or finishes, the features of a set; how many clips. The same set gives the same bytes.

    bundle_dir: its TSN streams give `visual`. Raises InputError when `out` holds features of something else.
    """
    clips = read_clips(set_dir)
    bundle = load_bundle(bundle_dir) if bundle_dir else None
    asked = {
        "format": 1,
        "bundle": sha256_of(bundle_dir / "bundle.json") if bundle_dir else None,
        "photo": backbone is not None,
        "set_sha256": sha256_of(set_dir / "manifest.jsonl"),
    }
    _claim(out, asked)
    done = 0
    for number, start in enumerate(range(0, len(clips), SHARD_CLIPS)):
        shard, part = out / f"shard-{number:04d}", clips[start : start + SHARD_CLIPS]
        if not (shard / "COMPLETE").exists():
            shard.mkdir(parents=True, exist_ok=True)
            rows = {}
            for count, (clip, row) in enumerate(
                in_parallel(lambda clip, shard=shard: _one(clip, shard, bundle, backbone), part, workers)
            ):
                rows[clip.id] = row
                on_clip(done + count + 1, len(clips))
            write_whole(shard / "index.jsonl", "".join(json.dumps(rows[c.id], sort_keys=True) + "\n" for c in part))
            write_whole(shard / "COMPLETE", f"{len(part)}\n")
        done += len(part)
        on_clip(done, len(clips))
    return done


def _one(clip: Clip, shard: Path, bundle: Bundle | None, backbone: Recogniser | None) -> dict:
    target = shard / f"{clip.id}.safetensors"
    if not target.exists():
        arrays = see_clip(clip.video, shard / ".seen" / f"{clip.id}.safetensors", ClipSpec(), backbone)
        motion = measure_motion(clip.record())
        arrays |= {
            "cells": motion.cells.astype(np.float16),
            "scene": motion.scene.astype(np.float16),
            "mel": mel_spectrogram(soundfile.read(clip.audio, dtype="float32")[0]).astype(np.float16),
        }
        if bundle is not None:
            limits = settings().cli_limits
            arrays["visual"] = watch(probe(clip.video, limits), bundle, limits=limits).visual
        part = target.with_suffix(".part")
        save_file({name: np.ascontiguousarray(value) for name, value in sorted(arrays.items())}, part)
        part.replace(target)
    (shard / ".seen" / f"{clip.id}.safetensors").unlink(missing_ok=True)
    return {"id": clip.id, "file": target.name, "sha256": sha256_of(target), "split": clip.split}


def _claim(out: Path, asked: dict) -> None:
    agree(out / "features.json", asked, dict.fromkeys(asked, f"{out} holds features of something else."))


def features_of(root: Path, set_dir: Path | None = None, photographs: bool = False) -> dict[str, Path]:
    """Clip id -> its file, of all finished shards; each was checked against its sha256.

    set_dir: the set that they must be of. photographs: they must have been looked at, too. Raises InputError when there
    is none or when they are of another set, ArtifactError when a file is not what was written.
    """
    found: dict[str, Path] = {}
    for shard in sorted(root.glob("shard-*")):
        if not (shard / "COMPLETE").exists():
            continue
        for row in map(json.loads, read_lines(shard / "index.jsonl")):
            path = shard / row["file"]
            if not path.is_file() or sha256_of(path) != row["sha256"]:
                raise ArtifactError(f"{path} is damaged.", hint="Delete its shard's COMPLETE and extract again.")
            found[row["id"]] = path
    if not found:
        raise InputError(f"{root} holds no finished features.", hint="Make them with `s2s data features`.")
    if set_dir is not None and not _are_of(root, set_dir):
        raise InputError(
            f"{root} holds features of another set than {set_dir}.", hint="Make them again with `s2s data features`."
        )
    if photographs and not json.loads((root / "features.json").read_text(encoding="utf-8"))["photo"]:
        raise InputError(f"{root} holds no photographs.", hint="Make it again with `s2s data features --photographs`.")
    return found


def _are_of(root: Path, set_dir: Path) -> bool:
    asked, manifest = root / "features.json", set_dir / "manifest.jsonl"
    if not (asked.is_file() and manifest.is_file()):
        return False
    return json.loads(asked.read_text(encoding="utf-8"))["set_sha256"] == sha256_of(manifest)


def extract_published(
    set_dir: Path, out: Path, bundle_dir: Path, *, workers: int = 1, on_clip: OnClip = lambda done, total: None
) -> int:
    """REGNET's own files, for its own loaders: two pickles, mel and waveform a clip, and the lists of ids.

    The set must have been made by `PUBLISHED` options (21.5 fps, 340 x 256, 10 s), and the bundle be an imported one.
    Raises InputError for another bundle, and when `out` holds files of something else.
    """
    bundle = load_bundle(bundle_dir)
    if bundle.manifest.feature_rule != "published":
        raise InputError(
            f"{bundle_dir} was not imported from published checkpoints.",
            code="bad_request",
            hint="Import one with `s2s bundle import`.",
        )
    clips = read_clips(set_dir)
    asked = {
        "format": 1,
        "bundle": sha256_of(bundle_dir / "bundle.json"),
        "set_sha256": sha256_of(set_dir / "manifest.jsonl"),
    }
    if not (out / "features.json").exists() and any(out.glob("melspec_*/*")):
        raise InputError(f"Nothing tells what the files in {out} were made from.", hint="Choose an empty folder.")
    _claim(out, asked)
    for folder in (
        "feature_rgb_bninception_dim1024_21.5fps",
        "feature_flow_bninception_dim1024_21.5fps",
        "melspec_10s_22050hz",
        "filelists",
    ):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for done, _ in enumerate(in_parallel(lambda clip: _published(clip, out, bundle), clips, workers)):
        on_clip(done + 1, len(clips))
    _write_lists(clips, out / "filelists")
    return len(clips)


def _published(clip: Clip, out: Path, bundle: Bundle) -> None:
    last = out / "melspec_10s_22050hz" / f"{clip.id}_mel.npy"
    if last.exists():
        return
    limits = settings().cli_limits
    visual = watch(probe(clip.video, limits), bundle, limits=limits).visual
    rows = visual[: PUBLISHED_CLIP.n_frames(10) - 1]  # the last row is the loader's padding, not in the files
    for name, part in (("rgb", rows[:, :1024]), ("flow", rows[:, 1024:])):
        path = out / f"feature_{name}_bninception_dim1024_21.5fps" / f"{clip.id}.pkl"
        _whole(path, lambda file, part=part: pickle.dump(np.ascontiguousarray(part, np.float32), file))
    waveform = np.zeros(10 * PUBLISHED_CLIP.mel.sample_rate)
    true = soundfile.read(clip.audio)[0][: len(waveform)]
    waveform[: len(true)] = true
    _whole(last.with_name(f"{clip.id}_audio.npy"), lambda file: np.save(file, waveform))
    mel = mel_spectrogram(waveform)[:, : 4 * PUBLISHED_CLIP.n_frames(10)].astype(np.float64)
    _whole(last, lambda file: np.save(file, mel))


def _whole(path: Path, write: Callable) -> None:
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        write(file)
    part.replace(path)


def _write_lists(clips: Sequence[Clip], folder: Path) -> None:
    """LABEL_train.txt and LABEL_test.txt: bare ids, one a line. There is no validation list: val clips are left out."""
    for label in sorted({clip.label for clip in clips}):
        for split in ("train", "test"):
            ids = [clip.id for clip in clips if clip.label == label and clip.split == split]
            write_whole(folder / f"{label}_{split}.txt", "".join(f"{name}\n" for name in ids))
