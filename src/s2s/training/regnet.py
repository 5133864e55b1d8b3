"""Trains RegNet: reconstruction of both mels, the audio-forwarding regulariser on, the adversarial game at the end.

Two sources of clips are mixed. Rendered clips bring visual features; scripts that are only sounded bring as many
instruments and rhythms as one likes for a fiftieth of the cost, with visual features of zero. The second half keeps
the generator from leaning on features that real footage does not show, because timing, kind and take are said outright
(`s2s.conditioning`).

    python -m s2s.training.regnet --run-dir runs/regnet --minutes 30
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file
from torch import Tensor

from s2s.conditioning import CURVES, condition, condition_dim, event_hits, take_code
from s2s.events import SoundEvent
from s2s.media.audio import fit_length
from s2s.mel import mel_spectrogram
from s2s.regnet.config import RegNetConfig
from s2s.regnet.discriminator import Discriminator
from s2s.regnet.generator import Generator
from s2s.regnet.grain import grain_step
from s2s.regnet.losses import LossConfig, discriminator_loss, generator_loss, spread_loss
from s2s.spec import ClipSpec
from s2s.synth.dataset import ClipRecord
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.synth.sounds import SoundBank, mix_clip
from s2s.training.checkpoint import load_checkpoint, save_checkpoint
from s2s.training.progress import Reporter
from s2s.training.takes import Take, first_takes, takes_of_run


class RegNetTrainConfig(BaseModel):
    """The defaults are the published recipe (Chen et al. 2020 and its code); `small_recipe` is laid over it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: RegNetConfig = RegNetConfig()
    loss: LossConfig = LossConfig()
    seed: int = 123
    clip_s: float = 10.0
    scripted_clips: int = Field(0, ge=0, description="clips that are only sounded, made once and kept")
    batch_size: int = 64
    steps: int = Field(41_000, description="published: 1,000 epochs of the dog clips")
    gan_from_step: int = Field(0, ge=0, description="the discriminator joins here; `steps` for never")
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay: Literal["linear", "exponential"] = Field(
        "linear", description="linear: constant for a tenth of the steps, then in a line to the end"
    )
    final_learning_rate: float = 0.0
    gradient_norm: float = Field(float("inf"), gt=0, description="gradients are clipped to this")
    rendered_from_step: int = Field(0, ge=0, description="rendered clips join here; scripts alone are seen before")
    visual_dropout: float = Field(0, ge=0, le=1, description="share of rendered clips whose features are zeroed")
    aux_dropout: float = Field(0, ge=0, le=1, description="share of clips that the regulariser does not hear")
    frozen_norms_from_step: int | None = Field(
        None, ge=0, description="batch norms keep their statistics from here on: training sees what inference sees"
    )
    grain_steps: int = Field(400, ge=0, description="after the others, of the spread alone, where the network has one")
    checkpoint_minutes: float = 3.0

    def learning_rate_at(self, step: int) -> float:
        share = min(1.0, step / max(1, self.steps))
        if self.decay == "exponential":
            return self.learning_rate * (self.final_learning_rate / self.learning_rate) ** share
        left = min(1.0, (1 - share) / 0.9)
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * left


PUBLISHED = RegNetTrainConfig()
SMALL = {
    "loss": LossConfig(reconstruction="l1", reconstruction_weight=100.0, attack_weight=3.0),
    "seed": 0, "clip_s": 4.0, "scripted_clips": 3000, "batch_size": 8, "steps": 9000, "rendered_from_step": 3000,
    "frozen_norms_from_step": 5700, "gan_from_step": 7000, "learning_rate": 1e-3, "final_learning_rate": 1e-4,
    "betas": (0.8, 0.99), "decay": "exponential", "gradient_norm": 1.0, "visual_dropout": 0.5, "aux_dropout": 0.5,
}  # fmt: skip


def small_recipe(network: RegNetConfig, **changes) -> RegNetTrainConfig:
    """What a CPU can do in an hour, and what the shipped bundle was made with."""
    return RegNetTrainConfig(network=network, **{**SMALL, **changes})


def small_network(
    visual_dim: int,
    clip: ClipSpec = ClipSpec(),
    n_kinds: int = len(KINDS),
    takes: dict[str, tuple[str, ...]] | None = None,
) -> RegNetConfig:
    """takes: names by kind, see `s2s.training.takes`; None: the first two of each."""
    return RegNetConfig(
        visual_dim=visual_dim,
        condition_dim=condition_dim(clip, n_kinds),
        event_curves=CURVES,
        timbre_dim=256,
        grain=True,
        takes=takes or first_takes(2),
        z_dim=32,
        encoder_channels=192,
        lstm_dim=96,
        encoder_dim=192,
        aux_dim=8,
        decoder_dim=192,
        postnet_dim=128,
        dropout=0.1,
        disc_feature_dim=96,
        disc_join_dim=48,
        disc_down_dims=(96, 128, 128),
    )


@dataclass(frozen=True)
class Clips:
    """Training pairs of equal length, in memory. N clips, T feature frames."""

    visual: np.ndarray | None  # float16 (N, T, V); None: all zero
    condition: np.ndarray  # float16 (N, T, C)
    z: np.ndarray  # float32 (N, Z)
    mel: np.ndarray  # float16 (N, n_mels, 4T)

    def __len__(self) -> int:
        return len(self.mel)


def random_script(rng: np.random.Generator, duration_s: float, take: Take) -> list[ScriptedEvent]:
    """That instrument playing a rhythm; one clip in twelve is silent."""
    if rng.random() < 1 / 12:
        return []
    gap_s = float(np.exp(rng.uniform(np.log(0.15), np.log(2.5))))
    if take.kind == "explosion":
        gap_s = max(gap_s, 0.8)
    regular, events, time_s = rng.random() < 0.5, [], float(rng.uniform(0, min(1.5, gap_s)))
    while time_s < duration_s:
        strength = float(rng.uniform(0.25, 1.0))
        events.append(take.play(ScriptedEvent(time_s, take.kind, strength, take.size)))
        time_s += gap_s * float(rng.uniform(0.9, 1.1) if regular else np.exp(rng.normal(0, 0.5)))
        time_s = max(time_s, events[-1].time_s + 0.1)
    return events


def draw_take(takes: dict[str, tuple[str, ...]], kind: str, rng: np.random.Generator) -> Take:
    return Take.of(takes[kind][rng.integers(len(takes[kind]))])


def encode_script(
    events: Sequence[ScriptedEvent], take: Take, n_frames: int, clip: ClipSpec, z_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """-> condition float32 (T, C), z float32 (Z,). A clip without events keeps its kind and take."""
    kinds = np.zeros(len(KINDS), np.float32)
    kinds[KINDS.index(take.kind)] = 1
    sounded = [SoundEvent(event.time_s, event.kind, event.strength, 1.0) for event in events]
    return condition(sounded, kinds, n_frames, clip), take_code(take.name, z_dim)


def make_scripted(n: int, config: RegNetTrainConfig, clip: ClipSpec, recorded: Path | None, report: Reporter) -> Clips:
    """Sounds `n` random scripts. Deterministic: clip i depends on the seed and i alone."""
    bank = SoundBank("train", recorded)
    n_frames = int(config.clip_s * clip.video_rate)
    n_mel = clip.n_mel_frames(n_frames)
    duration_s = clip.n_samples(n_frames) / clip.mel.sample_rate
    conditions, zs, mels = [], [], []
    for index in range(n):
        rng = np.random.default_rng([config.seed, 17, index])
        take = draw_take(config.network.takes, KINDS[index % len(KINDS)], rng)
        events = random_script(rng, duration_s, take)
        waveform, _ = mix_clip(events, duration_s, bank, rng, studio=True)
        encoded, z = encode_script(events, take, n_frames, clip, config.network.z_dim)
        conditions.append(encoded.astype(np.float16))
        zs.append(z)
        mels.append(mel_spectrogram(waveform, clip.mel)[:, :n_mel].astype(np.float16))
        report.count("sounding scripts", index + 1, n)
    return Clips(None, np.stack(conditions), np.stack(zs), np.stack(mels))


def make_rendered(
    records: Sequence[ClipRecord],
    visual: Sequence[np.ndarray],
    config: RegNetTrainConfig,
    clip: ClipSpec,
    recorded: Path | None,
) -> Clips:
    """Clips with pictures, sounded by their own sound or else by a take for their script; visual float32 (T, V) each.

    Two crops a clip, of one kind each. A clip with its own sound is learned under a take of its kind drawn at random.
    """
    bank = SoundBank("train", recorded)
    n_frames = int(config.clip_s * clip.video_rate)
    rows: list[tuple[np.ndarray, ...]] = []
    for index, (record, features) in enumerate(zip(records, visual, strict=True)):
        if len({event.kind for event in record.events}) > 1 or len(features) < n_frames:
            continue
        rng = np.random.default_rng([config.seed, 19, index])
        kind = record.events[0].kind if record.events else KINDS[rng.integers(len(KINDS))]
        take, total = draw_take(config.network.takes, kind, rng), len(features)
        duration_s = clip.n_samples(total) / clip.mel.sample_rate
        if record.audio is not None:  # its true sound
            waveform = fit_length(soundfile.read(record.audio, dtype="float32")[0], clip.n_samples(total))
        else:
            events = [take.play(event) for event in record.events]
            waveform, _ = mix_clip(events, duration_s, bank, rng, studio=True)
        mel = mel_spectrogram(waveform, clip.mel)[:, : clip.n_mel_frames(total)]
        # Encoded whole, so that a crop hears what rings on from before it.
        encoded, z = encode_script(record.events, take, total, clip, config.network.z_dim)
        for start in sorted({0, total - n_frames}):
            frames, mel_frames = (slice(start * k, (start + n_frames) * k) for k in (1, clip.mel_per_frame))
            rows.append((features[frames], encoded[frames], z, mel[:, mel_frames]))
    visuals, conditions, zs, mels = (np.stack(column) for column in zip(*rows, strict=True))
    return Clips(visuals.astype(np.float16), conditions.astype(np.float16), zs, mels.astype(np.float16))


def cached(path: Path, make) -> Clips:
    """`make()` once; afterwards from `path`."""
    if not path.exists():
        clips = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: np.ascontiguousarray(value) for name, value in vars(clips).items() if value is not None},
            path.with_suffix(".part"),
        )
        path.with_suffix(".part").rename(path)
    return Clips(**{"visual": None, **load_file(path)})


class RegNetTrainer:
    """State of one run: networks, optimisers, step. Resumes from `run_dir`."""

    def __init__(self, config: RegNetTrainConfig, run_dir: Path, device: str = "cpu", resume: bool = True):
        torch.manual_seed(config.seed)
        self.config, self.run_dir, self.device = config, run_dir, device
        self.generator = Generator(config.network).to(device)
        self.discriminator = Discriminator(config.network).to(device)
        self.optimisers = [
            torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=config.betas)
            for net in (self.generator, self.discriminator)
        ]
        self.step = 0
        saved = load_checkpoint(run_dir / "checkpoint.pt") if resume else None
        if saved is not None:
            self.generator.load_state_dict(saved["generator"])
            self.discriminator.load_state_dict(saved["discriminator"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.step = saved["step"]

    def save(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        save_checkpoint(
            self.run_dir / "checkpoint.pt",
            {
                "step": self.step,
                "generator": self.generator.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            },
        )

    def batch(self, sources: list[Clips], step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Depends on the seed and the step alone, so that a resumed run sees what an undisturbed one would."""
        rng = np.random.default_rng([self.config.seed, 23, step])
        rows = [], [], [], []
        for _ in range(self.config.batch_size):
            n_sources = 1 if step < self.config.rendered_from_step else len(sources)
            clips = sources[rng.integers(n_sources)]
            index = int(rng.integers(len(clips)))
            n_frames = clips.condition.shape[1]
            visual = np.zeros((n_frames, self.config.network.visual_dim), np.float32)
            if clips.visual is not None and rng.random() >= self.config.visual_dropout:
                visual = clips.visual[index].astype(np.float32)
            for column, value in zip(
                rows, (visual, clips.condition[index], clips.z[index], clips.mel[index]), strict=True
            ):
                column.append(torch.from_numpy(value.astype(np.float32)))
        return tuple(torch.stack(column).to(self.device) for column in rows)

    def train_step(self, sources: list[Clips]) -> dict[str, float]:
        config = self.config
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate_at(self.step)
        visual, conditions, z, mel = self.batch(sources, self.step)
        torch.manual_seed(hash((config.seed, self.step)) % 2**31)  # dropout masks survive a resume
        adversarial = self.step >= config.gan_from_step and config.loss.gan_weight > 0
        self.generator.train()
        if config.frozen_norms_from_step is not None and self.step >= config.frozen_norms_from_step:
            for module in self.generator.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.eval()
        heard = torch.rand(len(mel)).to(self.device) >= config.aux_dropout
        mel_pred, mel_pre_postnet = self.generator(visual, mel, z, conditions, heard)
        scalars = {}
        if adversarial:
            self.discriminator.train().requires_grad_(True)
            loss_d = discriminator_loss(
                self.discriminator(visual, mel_pred.detach(), conditions), self.discriminator(visual, mel, conditions)
            )
            self._descend(1, loss_d)
            self.discriminator.requires_grad_(False)
            scalars["loss_d"] = float(loss_d.detach())
        score = self.discriminator(visual, mel_pred, conditions) if adversarial else None
        hits = event_hits(conditions) if config.network.event_curves else None
        loss_g = generator_loss(mel_pred, mel_pre_postnet, mel, score, config.loss, hits)
        self._descend(0, loss_g)
        self.step += 1
        return {"loss_g": float(loss_g.detach()), "mel_l1": float((mel_pred.detach() - mel).abs().mean()), **scalars}

    def _descend(self, index: int, loss: Tensor) -> None:
        self.optimisers[index].zero_grad()
        loss.backward()
        net = (self.generator, self.discriminator)[index]
        torch.nn.utils.clip_grad_norm_(net.parameters(), self.config.gradient_norm)
        self.optimisers[index].step()


def fit_spread(trainer: RegNetTrainer, sources: list[Clips]) -> float:
    """Teaches the generator how much the truth fluctuates; the mel that it makes stays the same. -> last loss."""
    generator, config = trainer.generator.eval(), trainer.config
    optimiser, loss = torch.optim.Adam(generator.timbre.grain.parameters(), lr=3e-3), torch.zeros(())
    usual = torch.from_numpy(grain_step())[:, None].to(trainer.device)
    for step in range(config.grain_steps):
        visual, conditions, z, mel = trainer.batch(sources, config.steps + step)
        with torch.no_grad():
            mel_pred = generator.predict_mel(visual, z, conditions)
        loss = spread_loss(generator.spread(z, conditions)[..., 1:], (mel - mel_pred).diff(dim=2) / usual)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def mel_error(generator: Generator, clips: Clips, n: int = 64) -> float:
    """Mean absolute error in published mel units of inference (aux zero) on the first `n` clips."""
    generator.eval()
    device = next(generator.parameters()).device
    total = 0.0
    for index in range(min(n, len(clips))):
        visual = (
            clips.visual[index]
            if clips.visual is not None
            else np.zeros((clips.condition.shape[1], generator.config.visual_dim))
        )
        inputs = [
            torch.from_numpy(np.asarray(part, np.float32))[None].to(device)
            for part in (visual, clips.z[index], clips.condition[index])
        ]
        mel = generator.predict_mel(*inputs)[0].cpu().numpy()
        total += float(np.abs(mel - clips.mel[index].astype(np.float32)).mean())
    return total / max(1, min(n, len(clips)))


def train_regnet(
    config: RegNetTrainConfig,
    run_dir: Path,
    *,
    rendered: Clips | None = None,
    recorded: Path | None = None,
    clip: ClipSpec = ClipSpec(),
    device: str = "cpu",
    minutes: float | None = None,
) -> Generator:
    """Trains until `steps` or `minutes`; resumes; writes `generator.safetensors` and `config.json` in `run_dir`."""
    from safetensors.torch import save_file as save_tensors

    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config.model_dump_json(indent=2))
    with Reporter(run_dir, total=config.steps) as report:
        sources = []
        if config.scripted_clips:
            sources.append(
                cached(
                    run_dir / "scripted.safetensors",
                    lambda: make_scripted(config.scripted_clips, config, clip, recorded, report),
                )
            )
        if rendered is not None:
            sources.append(rendered)
        trainer = RegNetTrainer(config, run_dir, device)
        start = saved_at = time.monotonic()
        while trainer.step < config.steps and (minutes is None or time.monotonic() - start < minutes * 60):
            scalars = trainer.train_step(sources)
            report.scalars(trainer.step, scalars)
            if time.monotonic() - saved_at > config.checkpoint_minutes * 60:
                trainer.save()
                saved_at = time.monotonic()
        trainer.save()
        if config.network.grain and trainer.step >= config.steps:
            report.scalars(trainer.step, {"spread_loss": fit_spread(trainer, sources)})
        report.scalars(trainer.step, {"inference_mel_l1": mel_error(trainer.generator, sources[-1])})
    save_tensors(trainer.generator.state_dict(), run_dir / "generator.safetensors")
    return trainer.generator.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--recorded", type=Path, help="folder of the recorded sound bank")
    parser.add_argument("--visual-dim", type=int, default=384)
    arguments = parser.parse_args()
    takes = takes_of_run(arguments.run_dir, 6, arguments.recorded, listen=arguments.recorded is not None)
    config = small_recipe(small_network(arguments.visual_dim, takes=takes))
    train_regnet(config, arguments.run_dir, recorded=arguments.recorded, minutes=arguments.minutes)


if __name__ == "__main__":
    main()
