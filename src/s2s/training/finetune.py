"""A bundle and a folder of one's own clips -> a bundle that sounds more like these clips.

RegNet alone learns: what the clips have to teach is how their things sound. Where the moments are is told by the true
sound's onsets in training and by the bundle's timing net afterwards. Half of every batch is what the bundle itself
answers to random scripts of the other kinds, so that what it knew is not forgotten. Any seed of the clips' kind then
sounds like the clips: they are learned under all takes of their kind in turn.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from s2s.bundle import BundleManifest, Source, licence_with, load_bundle, save_bundle
from s2s.conditioning import choose_take, condition, take_code
from s2s.data.clips import ClipOptions, make_set
from s2s.data.folder import pieces_of_folder
from s2s.data.manifest import Clip, agree, read_clips, sha256_of
from s2s.errors import ArtifactError, InputError
from s2s.events import SoundEvent
from s2s.mel import mel_spectrogram
from s2s.spec import ClipSpec
from s2s.synth.script import KINDS
from s2s.training.progress import Reporter
from s2s.training.regnet import (
    Clips,
    RegNetTrainConfig,
    RegNetTrainer,
    cached,
    draw_take,
    encode_script,
    mel_error,
    random_script,
    small_recipe,
)
from s2s.training.tsn import SeenClip, see_clip, visual_features

log = logging.getLogger(__name__)


class FineTuning(BaseModel):
    """How much. The defaults take some minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(400, gt=0)
    learning_rate: float = 2e-4
    batch_size: int = 12
    clip_s: float = Field(3.0, gt=0, description="length of the windows that are learned; shorter clips are left out")
    rehearsed_clips: int = Field(200, gt=0, description="answers of the old bundle that are learned beside the clips")
    seed: int = 0


def fine_tune(
    bundle_dir: Path,
    clips_dir: Path,
    out: Path,
    *,
    kind: str | None = None,
    config: FineTuning = FineTuning(),
    run_dir: Path,
    device: str = "cpu",
) -> BundleManifest:
    """Writes the new bundle to `out` and returns its manifest; its metrics say what held-out clips gained.

    clips_dir: a set of `s2s data folder`, or any folder of videos with sound, which is cut into one first.
    kind: what all clips are; None: sub-folders have the names of kinds. A killed run goes on from `run_dir`.
    Raises InputError for a folder without a usable clip and for a `run_dir` that has begun to learn from other clips,
    from another bundle or in another way; ArtifactError for a bundle that cannot learn so.
    """
    bundle = load_bundle(bundle_dir, device)
    regnet = bundle.networks.get("regnet")
    if regnet is None or not regnet.config.takes or tuple(bundle.manifest.categories) != KINDS:
        raise ArtifactError(f"{bundle.manifest.name} does not take events and kinds, so it cannot be fine-tuned here.")
    if kind is not None and kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of sound.", hint=f"Kinds are {', '.join(KINDS)}.")
    set_dir = _set_of(clips_dir, run_dir, kind)
    found = [replace(clip, kind=kind) if kind else clip for clip in read_clips(set_dir)]
    known = [clip for clip in found if clip.kind in KINDS]
    clips = [clip for clip in known if clip.duration_s >= config.clip_s]
    if not known:
        raise InputError(
            f"{clips_dir} holds no clip of a known kind.", hint="Give --kind, or name sub-folders after kinds."
        )
    if not clips:
        raise InputError(
            f"None of the {len(known)} clips that {clips_dir} gives lasts {config.clip_s:g} s.",
            hint="Give videos with more picture around the sounds.",
        )
    _claim(run_dir, bundle_dir, set_dir, kind, config)
    own, held_out = ([clip for clip in clips if (clip.split == "test") is test] for test in (False, True))
    streams = [bundle.networks.get(role) for role in ("tsn_rgb", "tsn_flow")]
    training = small_recipe(
        regnet.config,
        clip_s=config.clip_s,
        scripted_clips=config.rehearsed_clips,
        batch_size=config.batch_size,
        steps=config.steps,
        gan_from_step=config.steps,
        rendered_from_step=0,
        frozen_norms_from_step=0,
        learning_rate=config.learning_rate,
        final_learning_rate=config.learning_rate / 10,
        seed=config.seed,
    )
    learned = windows_of(own or held_out, streams, training, bundle.manifest.clip, run_dir / "seen")
    judged = windows_of(held_out or own, streams, training, bundle.manifest.clip, run_dir / "seen")
    before = mel_error(regnet, judged)
    with Reporter(run_dir, total=config.steps) as report:
        rehearsed = cached(
            run_dir / "rehearsed.safetensors",
            lambda: remembered(regnet, {clip.kind for clip in own or held_out}, training, bundle.manifest.clip),
        )
        trainer = RegNetTrainer(training, run_dir, device)
        if trainer.step == 0:
            trainer.generator.load_state_dict(regnet.state_dict())
        while trainer.step < config.steps:
            report.scalars(trainer.step + 1, trainer.train_step([rehearsed, learned]))
            if trainer.step % 100 == 0:
                trainer.save()
        trainer.save()
    gained = {
        "clips": len(own or held_out),
        "held_out": bool(held_out and own),
        "mel_l1_db_before": round(100 * before, 3),
        "mel_l1_db_after": round(100 * mel_error(trainer.generator, judged), 3),
    }
    log.info("mel L1 of %s: %s", "held-out clips" if gained["held_out"] else "the clips themselves", gained)
    licences = sorted({clip.licence for clip in clips})
    manifest = bundle.manifest.model_copy(
        update={
            "name": f"{bundle.manifest.name}-tuned",
            "licence": licence_with(bundle.manifest.licence, licences),
            "trained_on": (
                *bundle.manifest.trained_on,
                Source(name=f"{len(clips)} clips of {clips_dir.resolve().name}", licence=", ".join(licences)),
            ),
            "metrics": {"fine_tuning": gained},  # what the old bundle was measured at says nothing about this one
            "notes": f"{bundle.manifest.notes} RegNet fine-tuned on one's own clips.".strip(),
        }
    )
    networks: dict[str, nn.Module] = {**bundle.networks, "regnet": trainer.generator}
    return save_bundle(out, manifest, {role: network.half() for role, network in networks.items()})


def _set_of(folder: Path, run_dir: Path, kind: str | None) -> Path:
    """The set of clips; a folder that is none yet is cut into one below `run_dir`."""
    if (folder / "manifest.jsonl").is_file():
        return folder
    pieces = pieces_of_folder(folder)
    labels = {piece.label for piece in pieces}
    made = run_dir / (f"set-{kind}" if kind else "set")  # each its own: the first try may have lacked --kind
    make_set(pieces, made, ClipOptions(), kinds=dict.fromkeys(labels, kind) if kind else None)
    return made


def _claim(run_dir: Path, bundle_dir: Path, set_dir: Path, kind: str | None, config: FineTuning) -> None:
    """`run_dir` holds weights, pictures and answers: of these clips and this bundle, or it is refused."""
    asked = {
        "bundle_sha256": sha256_of(bundle_dir / "bundle.json"),
        "clips_sha256": sha256_of(set_dir / "manifest.jsonl"),
        "kind": kind,
        "config_sha256": hashlib.sha256(config.model_dump_json(exclude={"steps"}).encode()).hexdigest(),
    }
    refusals = {
        "bundle_sha256": f"{run_dir} has begun to learn from another bundle.",
        "clips_sha256": f"{run_dir} has begun to learn from other clips.",
        "kind": f"{run_dir} has begun to learn the clips as another kind.",
        "config_sha256": f"{run_dir} has begun to learn differently.",
    }
    agree(run_dir / "asked.json", asked, refusals, may_lack=("kind",))


@torch.no_grad()
def remembered(regnet: nn.Module, new: Collection[str], config: RegNetTrainConfig, clip: ClipSpec) -> Clips:
    """What `regnet` answers to `config.scripted_clips` scripts of other kinds than `new`, without a picture."""
    n_frames = int(config.clip_s * clip.video_rate)
    duration_s = clip.n_samples(n_frames) / clip.mel.sample_rate
    kinds = [kind for kind in regnet.config.takes if kind not in new] or list(regnet.config.takes)
    device, rows = next(regnet.parameters()).device, []
    for index in range(config.scripted_clips):
        rng = np.random.default_rng([config.seed, 29, index])
        take = draw_take(regnet.config.takes, kinds[index % len(kinds)], rng)
        encoded, z = encode_script(random_script(rng, duration_s, take), take, n_frames, clip, regnet.config.z_dim)
        unseen = torch.zeros(1, n_frames, regnet.config.visual_dim, device=device)
        asked = (torch.from_numpy(part)[None].to(device) for part in (z, encoded))
        rows.append((encoded, z, regnet.predict_mel(unseen, *asked)[0].cpu().numpy()))
    conditions, zs, mels = (np.stack(column) for column in zip(*rows, strict=True))
    return Clips(None, conditions.astype(np.float16), zs, mels.astype(np.float16))


def windows_of(
    clips: Sequence[Clip],
    streams: Sequence[nn.Module | None],
    config: RegNetTrainConfig,
    clip: ClipSpec,
    cache: Path,
) -> Clips:
    """Training pairs: windows of `config.clip_s` that follow one another, with the sound that was recorded."""
    n_frames = int(config.clip_s * clip.video_rate)
    rows = []
    for own in clips:
        seen = see_clip(own.video, cache / f"{own.id}.safetensors", clip, None)
        visual = visual_features(SeenClip(**seen, events=(), kind=0), *streams)
        total = len(visual)
        sound = soundfile.read(own.audio, dtype="float32", always_2d=True)[0].mean(axis=1)
        sound = np.pad(sound, (0, max(0, clip.n_samples(total) - len(sound))))
        mel = mel_spectrogram(sound, clip.mel)[:, : clip.n_mel_frames(total)]
        events = [
            SoundEvent(time_s, own.kind, strength, 1.0)
            for time_s, strength in zip(own.onsets_s, own.strengths, strict=True)
        ]
        kinds = np.eye(len(KINDS), dtype=np.float32)[KINDS.index(own.kind)]
        encoded = condition(events, kinds, total, clip)
        for start in range(0, total - n_frames + 1, n_frames):
            frames, mel_frames = (slice(start * k, (start + n_frames) * k) for k in (1, clip.mel_per_frame))
            z = take_code(choose_take(config.network.takes[own.kind], len(rows)), config.network.z_dim)
            rows.append((visual[frames], encoded[frames], z, mel[:, mel_frames]))
    if not rows:
        raise InputError(f"No clip lasts {config.clip_s:g} s.", hint="Give longer clips.")
    visuals, conditions, zs, mels = (np.stack(column) for column in zip(*rows, strict=True))
    return Clips(visuals.astype(np.float16), conditions.astype(np.float16), zs, mels.astype(np.float16))
