"""Training of the parallel WaveNet vocoder on mixtures that are made on the fly.

Every batch is a function of (seed, step) alone, so a run that was killed goes on as if it had not been: the same
batches, and with the optimiser's state from the checkpoint the same weights.

Losses: multi-resolution STFT (spectral convergence + log magnitude; Parallel WaveGAN, Yamamoto et al. 2020), mel L1
(HiFi-GAN, Kong et al. 2020), the level in slices of 1.5 ms (attacks) and, from `adversarial_from` on, a
multi-resolution spectrogram discriminator (UnivNet, Jang et al. 2021) with least squares and feature matching.

    python -m s2s.training.vocoder --run-dir runs/vocoder --minutes 90 [--recorded-dir DIR]
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from s2s.mel import MelTransform
from s2s.spec import MelSpec
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.synth.sounds import SoundBank, Split, reverb, room_tone
from s2s.training.checkpoint import Ema, load_checkpoint, save_checkpoint
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig

log = logging.getLogger(__name__)
Config = TypeVar("Config", bound="SoundTrainConfig")


class SoundTrainConfig(BaseModel):
    """What the runs of both vocoders share: batches, rates, checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    steps: int = Field(6000, gt=0)
    batch: int = 8
    segment_frames: int = Field(64, description="mel frames a segment; a multiple of the model's align_frames")
    sounds_per_batch: int = Field(6, description="events rendered afresh for each batch")
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_rate_share: float = Field(0.05, description="share of the learning rate left at the last step (cosine)")
    gradient_clip: float = 5.0
    ema_decay: float = 0.998
    checkpoint_every_s: float = 120.0
    validate_every: int = Field(250, description="steps")
    validation_clips: int = 32
    recorded_dir: Path | None = Field(None, description="recorded sounds (s2s.synth.banks); None: synthesis alone")


class VocoderTrainConfig(SoundTrainConfig):
    model: ParallelWaveNetConfig = ParallelWaveNetConfig()
    betas: tuple[float, float] = (0.8, 0.99)
    corrections: int = Field(2, description="rounds of the mel correction in training")
    mel_weight: float = Field(0.05, description="per dB")
    attack_weight: float = Field(0.05, description="per neper of the short-time level")
    adversarial_from: int | None = Field(None, description="step at which the discriminator joins; None: never")
    adversarial_weight: float = 0.1
    feature_weight: float = 0.2
    discriminator_channels: int = 16


# ---------------------------------------------------------------------------------------------------------------- data


def training_batch(config: SoundTrainConfig, bank: SoundBank, step: int) -> np.ndarray:
    """float32 (batch, segment_frames * hop): random mixtures, a function of (config.seed, step) and the bank alone."""
    rng = np.random.default_rng([config.seed, step])
    n = MelSpec().n_samples(config.segment_frames)
    sounds = [_random_sound(bank, rng) for _ in range(config.sounds_per_batch)]
    for i in range(len(sounds) // 2 if bank.recordings else 0):
        take = bank.recordings[rng.integers(len(bank.recordings))].samples
        start = rng.integers(len(take) // 2) if rng.random() < 0.3 else 0
        sounds[i] = take[start : start + 4 * MelSpec().sample_rate]
    return np.stack([random_segment(sounds, n, rng) for _ in range(config.batch)])


def _random_sound(bank: SoundBank, rng: np.random.Generator) -> np.ndarray:
    kind = KINDS[rng.integers(len(KINDS))]
    # the vocoder may hear far more instances than the 24 that RegNet learns to name
    event = ScriptedEvent(0.0, kind, rng.random(), rng.random(), int(rng.integers(240)))
    sound = bank.render(event, rng)
    return sound / (np.abs(sound).max() + 1e-9)


def random_segment(sounds: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (n,): events that overlap, tails without their attack, tones, noise bands or nothing, over room tone."""
    rate = MelSpec().sample_rate
    x = np.zeros(n)
    what = rng.random()
    if what < 0.8:
        for _ in range(1 + rng.poisson(1.2)):
            sound = sounds[rng.integers(len(sounds))]
            if rng.random() < 0.5:  # another size of the same thing
                step = 2 ** rng.uniform(-0.4, 0.4)
                sound = np.interp(np.arange(0, len(sound) - 1, step), np.arange(len(sound)), sound)
            start = int(rng.uniform(-min(0.6 * rate, 0.7 * len(sound)), 0.9 * n))
            part = sound[max(0, -start) : max(0, -start) + n - max(0, start)]
            gain = rng.choice((-1, 1)) * 10 ** (rng.uniform(-30, 0) / 20)
            x[max(0, start) : max(0, start) + len(part)] += gain * part
        if rng.random() < 0.7:
            x = reverb(x, rng)
    elif what < 0.88:
        x += _chirps(n, rng, rate)
    elif what < 0.96:
        x += _noise_bands(n, rng, rate)
    peak = np.abs(x).max()
    if peak > 0:
        x *= 10 ** (rng.uniform(-30 if what < 0.8 else -40, -0.3) / 20) / peak
    if rng.random() < 0.85:
        x = x + room_tone(n, rng) * 10 ** (rng.uniform(-15, 5) / 20)
    return np.clip(x, -1, 1).astype(np.float32)


def _chirps(n: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    t = np.arange(n) / rate
    out = np.zeros(n)
    for _ in range(rng.integers(1, 5)):
        f0, f1 = 2 ** rng.uniform(6, 13, 2)
        if rng.random() < 0.5:
            f1 = f0
        path = f0 * (f1 / f0) ** (t / t[-1])
        swell = 1 + 0.9 * np.sin(2 * np.pi * rng.uniform(0.5, 8) * t + rng.uniform(0, 6.3))
        out += rng.random() * swell * np.sin(2 * np.pi * np.cumsum(path) / rate + rng.uniform(0, 6.3))
    return out


def _noise_bands(n: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / rate)
    centre, width = 2 ** rng.uniform(7, 13), rng.uniform(0.1, 2.5)
    shape = np.exp(-0.5 * (np.log2(np.maximum(hz, 20) / centre) / width) ** 2)
    x = np.fft.irfft(spectrum * shape, n)
    knots = rng.integers(2, 12)
    envelope = np.interp(np.arange(n), np.sort(rng.integers(0, n, knots)), 10 ** (rng.uniform(-50, 0, knots) / 20))
    return x * envelope


def validation_set(config: SoundTrainConfig, split: Split = "test") -> np.ndarray:
    """float32 (clips, 128 frames * hop): mixtures of held-out instances, always the same ones."""
    bank = SoundBank(split, config.recorded_dir)
    rng = np.random.default_rng(20_261_122)
    n = MelSpec().n_samples(128)
    clips = []
    for i in range(config.validation_clips):
        x = np.zeros(n)
        for start in np.cumsum(rng.uniform(0.12, 0.5, 4)):
            event = ScriptedEvent(0.0, KINDS[i % len(KINDS)], rng.random(), rng.random(), int(rng.integers(24)))
            sound = bank.render(event, rng)
            at = int(start * MelSpec().sample_rate)
            part = sound[: max(0, n - at)]
            x[at : at + len(part)] += part
        x = 0.9 * reverb(x, rng)
        clips.append(np.clip(x / max(1.0, np.abs(x).max() / 0.95) + room_tone(n, rng), -1, 1).astype(np.float32))
    return np.stack(clips)


# -------------------------------------------------------------------------------------------------------------- losses

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))  # (n_fft, hop): the shortest sees attacks


class MultiResolutionStft(nn.Module):
    """Spectral convergence + L1 of the natural log magnitudes, mean over RESOLUTIONS; (B, N) twice -> scalar."""

    def __init__(self, resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS, floor: float = 1e-4):
        super().__init__()
        self.resolutions, self.floor = resolutions, floor
        for n_fft, _ in resolutions:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        total = made.new_zeros(())
        for n_fft, hop in self.resolutions:
            window = getattr(self, f"window_{n_fft}")
            scale = (0.375 * n_fft) ** -0.5  # so that the floor is the same level of noise at all resolutions
            a, b = (_magnitude(x, n_fft, hop, window) * scale for x in (made, true))
            # per clip, or the loudest clip of a batch is the only one that counts
            convergence = ((a - b).square().sum((1, 2)).sqrt() / (b.square().sum((1, 2)).sqrt() + 1e-2)).mean()
            total = total + convergence + (a.clamp_min(self.floor).log() - b.clamp_min(self.floor).log()).abs().mean()
        return total / len(self.resolutions)


def attack_loss(made: Tensor, true: Tensor, length: int = 32, floor: float = 1e-3) -> Tensor:
    """L1 of the natural log level in slices of `length` samples (1.5 ms), (B, N) twice -> scalar.

    No spectrum of 11 ms sees whether the sound before an attack is silence; ears do.
    """
    levels = [(x.unflatten(1, (-1, length)).square().mean(2) + floor**2).log() / 2 for x in (made, true)]
    return F.l1_loss(*levels)


def _magnitude(x: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    spectrum = torch.stft(x, n_fft, hop, n_fft, window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


class SpectrogramDiscriminator(nn.Module):
    """Small 2-D nets on log spectra of three resolutions (UnivNet, section 2.2); (B, N) -> features of each net."""

    RESOLUTIONS = ((512, 128), (1024, 256), (256, 64))

    def __init__(self, channels: int = 16):
        super().__init__()
        self.nets = nn.ModuleList()
        for n_fft, _ in self.RESOLUTIONS:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            shapes = [(1, channels, (1, 1)), (channels, channels, (2, 1)), (channels, 2 * channels, (2, 2)),
                      (2 * channels, 2 * channels, (2, 1)), (2 * channels, 2 * channels, (1, 1))]
            convs = [nn.utils.parametrizations.weight_norm(nn.Conv2d(i, o, (5, 3), s, (2, 1))) for i, o, s in shapes]
            self.nets.append(nn.ModuleList([*convs, nn.Conv2d(2 * channels, 1, 3, 1, 1)]))

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        out = []
        for (n_fft, hop), net in zip(self.RESOLUTIONS, self.nets, strict=True):
            window = getattr(self, f"window_{n_fft}")
            x = _magnitude(waveform, n_fft, hop, window) * (0.375 * n_fft) ** -0.5
            x = (x + 1e-4).log()[:, None] * 0.3 + 1.5
            features = []
            for conv in net[:-1]:
                x = F.leaky_relu(conv(x), 0.2)
                features.append(x)
            features.append(net[-1](x))
            out.append(features)
        return out


# ------------------------------------------------------------------------------------------------------------ training


def learning_rate(config: SoundTrainConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return config.learning_rate * warm * (config.final_rate_share + (1 - config.final_rate_share) * share)


class VocoderTrainer:
    """A run: nets, optimisers, average, step. `step_once` is one step; `state` and `restore` are its memory."""

    def __init__(self, config: VocoderTrainConfig, device: str = "cpu"):
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(config.seed)
        self.bank = SoundBank("train", config.recorded_dir)
        self.model = ParallelWaveNet(config.model).to(self.device)
        self.discriminator = SpectrogramDiscriminator(config.discriminator_channels).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=config.betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), betas=config.betas)
        self.ema = Ema(self.model, config.ema_decay)
        self.stft = MultiResolutionStft().to(self.device)
        self.mel = MelTransform().to(self.device)
        self.step = 0
        self.best = math.inf

    def step_once(self) -> dict[str, float]:
        config = self.config
        true = torch.from_numpy(training_batch(config, self.bank, self.step)).to(self.device)
        noise = torch.from_numpy(np.random.default_rng([config.seed, self.step, 1]).standard_normal(
            true.shape, dtype=np.float32)).to(self.device)
        mel = self.mel(true)
        made = self.model(mel[..., : config.segment_frames], noise, config.corrections)
        scalars = {"stft": self.stft(made, true), "mel_db": 100 * F.l1_loss(self.mel(made), mel)}
        scalars["attack"] = attack_loss(made, true)
        loss = scalars["stft"] + config.mel_weight * scalars["mel_db"] + config.attack_weight * scalars["attack"]
        rate = learning_rate(config, self.step)
        if config.adversarial_from is not None and self.step >= config.adversarial_from:
            scalars["discriminator"] = self._discriminator_step(true, made.detach(), rate)
            fake, real = self.discriminator(made), [[f.detach() for f in fs] for fs in self.discriminator(true)]
            scalars["adversarial"] = sum((fs[-1] - 1).square().mean() for fs in fake) / len(fake)
            scalars["features"] = sum(
                F.l1_loss(f, r) / r.abs().mean() for fs, rs in zip(fake, real, strict=True)
                for f, r in zip(fs[:-1], rs[:-1], strict=True)) / len(fake)
            loss = loss + config.adversarial_weight * scalars["adversarial"]
            loss = loss + config.feature_weight * scalars["features"]
        update(self.optimizer, self.model, loss, rate, config.gradient_clip)
        self.step += 1
        self.ema.update(self.model, self.step)
        return {"loss": loss.item(), "rate": rate, **{k: v.item() for k, v in scalars.items()}}

    def _discriminator_step(self, true: Tensor, made: Tensor, rate: float) -> Tensor:
        real, fake = self.discriminator(true), self.discriminator(made)
        pairs = zip(real, fake, strict=True)
        loss = sum((r[-1] - 1).square().mean() + f[-1].square().mean() for r, f in pairs) / len(real)
        update(self.optimizer_d, self.discriminator, loss, 0.5 * rate, self.config.gradient_clip)
        return loss.detach()

    @torch.no_grad()
    def validate(self, clips: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the averaged weights on held-out clips, and the copies (clips, N)."""
        model = self.averaged_model()
        copies, scores = [], {"stft": 0.0, "mel_db": 0.0}
        for i, clip in enumerate(clips):
            true = torch.from_numpy(clip)[None].to(self.device)
            mel = self.mel(true)
            noise = np.random.default_rng(i).standard_normal(true.shape, dtype=np.float32)
            made = model(mel[..., :-1], torch.from_numpy(noise).to(self.device))
            scores["stft"] += self.stft(made, true).item() / len(clips)
            scores["mel_db"] += 100 * F.l1_loss(self.mel(made), mel).item() / len(clips)
            copies.append(made[0].cpu().numpy())
        scores["total"] = scores["stft"] + self.config.mel_weight * scores["mel_db"]
        return scores, np.stack(copies)

    def averaged_model(self) -> ParallelWaveNet:
        model = ParallelWaveNet(self.config.model).to(self.device).eval()
        model.load_state_dict(self.ema.weights)
        return model

    def state(self) -> dict:
        return {
            "step": self.step, "best": self.best, "config": self.config.model_dump_json(),
            "model": self.model.state_dict(), "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(), "optimizer_d": self.optimizer_d.state_dict(),
            "ema": self.ema.weights,
        }

    def restore(self, state: dict) -> None:
        self.step, self.best = state["step"], state["best"]
        self.model.load_state_dict(state["model"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        self.ema.weights = state["ema"]


def update(optimizer: torch.optim.Optimizer, model: nn.Module, loss: Tensor, rate: float, clip: float) -> None:
    """One step down, by gradients of bounded length."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def train_vocoder(config: VocoderTrainConfig, run_dir: Path, resume: bool = True, *, minutes: float | None = None,
                  device: str = "cpu", progress: bool = False) -> dict[str, float]:
    """Train until `config.steps` (or for `minutes` of this call); returns the last validation scores.

    `run_dir`: see `train_in`; the JSON files are ParallelWaveNetConfigs.
    """
    return train_in(Path(run_dir), VocoderTrainer(config, device), resume, minutes=minutes, progress=progress)


class Trainer(Protocol):
    """What `train_in` needs of a run."""

    config: SoundTrainConfig
    device: torch.device
    step: int
    best: float

    def step_once(self) -> dict[str, float]: ...

    def validate(self, clips: np.ndarray) -> tuple[dict[str, float], np.ndarray]: ...

    def averaged_model(self) -> nn.Module: ...

    def state(self) -> dict: ...

    def restore(self, state: dict) -> None: ...


def train_in(run_dir: Path, trainer: Trainer, resume: bool = True, *, minutes: float | None = None,
             progress: bool = False) -> dict[str, float]:
    """Train until the last step (or for `minutes` of this call); returns the last validation scores.

    In `run_dir`: checkpoint.pt (resumable), best.safetensors + best.json (averaged weights with the lowest validation
    score, and their sizes), last.safetensors, copies.png, and TensorBoard scalars where it can be had.
    """
    config = trainer.config
    run_dir.mkdir(parents=True, exist_ok=True)
    if resume and (state := load_checkpoint(run_dir / "checkpoint.pt", str(trainer.device))) is not None:
        trainer.restore(state)
        log.info("resumed at step %d", trainer.step)
    writer = _summary_writer(run_dir)
    clips = validation_set(config)
    scores: dict[str, float] = {}
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    saved = time.monotonic()
    for _ in _with_bar(trainer, config.steps, progress):
        scalars = trainer.step_once()
        for name, value in scalars.items():
            writer.add_scalar(f"train/{name}", value, trainer.step)
        done = trainer.step >= config.steps or time.monotonic() > deadline
        if trainer.step % config.validate_every == 0 or done:
            scores, copies = trainer.validate(clips)
            log.info("step %d train %s valid %s", trainer.step, _brief(scalars), _brief(scores))
            for name, value in scores.items():
                writer.add_scalar(f"valid/{name}", value, trainer.step)
            save_weights(trainer.averaged_model(), run_dir / "last")
            if scores["total"] < trainer.best:
                trainer.best = scores["total"]
                save_weights(trainer.averaged_model(), run_dir / "best")
            if len(copies):
                draw_copies(clips[: len(copies)][:6], copies[:6], run_dir / "copies.png")
        if time.monotonic() - saved > config.checkpoint_every_s or done:
            save_checkpoint(run_dir / "checkpoint.pt", trainer.state())
            saved = time.monotonic()
        if done:
            break
    writer.close()
    return scores


def save_weights(model: nn.Module, stem: Path) -> None:
    """`stem`.safetensors and `stem`.json, each replaced in one move."""
    partial = stem.with_suffix(".partial")
    save_file(model.state_dict(), partial)
    partial.replace(stem.with_suffix(".safetensors"))
    partial.write_text(model.config.model_dump_json(indent=2))
    partial.replace(stem.with_suffix(".json"))


def draw_copies(clips: np.ndarray, copies: np.ndarray, path: Path) -> None:
    """Log spectrograms as a picture: each held-out clip above its copy."""
    from PIL import Image

    pairs = []
    for pair in zip(clips, copies, strict=True):
        rows = []
        for x in pair:
            spectrum = torch.stft(torch.from_numpy(x), 512, 128, 512, torch.hann_window(512), return_complex=True).abs()
            level = (20 * torch.log10(spectrum + 1e-4) + 60) / 100
            rows.append(np.flipud((level.clamp(0, 1) * 255).numpy().astype(np.uint8)))
            rows.append(np.full((3, rows[0].shape[1]), 128, np.uint8))
        pairs.append(np.concatenate([*rows, np.full((6, rows[0].shape[1]), 255, np.uint8)]))
    half = len(pairs) // 2
    columns = [pairs[:half], pairs[half:]] if len(pairs) % 2 == 0 else [pairs]
    Image.fromarray(np.concatenate([np.concatenate(column) for column in columns], axis=1)).save(path)


def _brief(scalars: dict[str, float]) -> str:
    return " ".join(f"{k}={v:.4g}" for k, v in scalars.items())


class _NoWriter:
    def add_scalar(self, *_: object) -> None: ...

    def close(self) -> None: ...


def _summary_writer(run_dir: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return _NoWriter()
    return SummaryWriter(str(run_dir))


def _with_bar(trainer: Trainer, steps: int, progress: bool) -> Iterator[int]:
    from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

    with Progress(*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn(),
                  disable=not progress) as bar:
        task = bar.add_task("Training the vocoder", total=steps, completed=trainer.step)
        while trainer.step < steps:
            yield trainer.step
            bar.update(task, completed=trainer.step)


def command_of_runs(description: str, config_class: type[SoundTrainConfig]) -> argparse.ArgumentParser:
    """The arguments that both vocoders' runs take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="stop after so long; a later call goes on")
    parser.add_argument("--config", type=Path, help=f"JSON of {config_class.__name__}")
    parser.add_argument("--recorded-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--restart", action="store_true", help="ignore the checkpoint")
    return parser


def config_of_run(args: argparse.Namespace, default: Config) -> Config:
    """Also sets up the log and torch's threads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    config = type(default).model_validate_json(args.config.read_text()) if args.config else default
    return config.model_copy(update={"recorded_dir": args.recorded_dir}) if args.recorded_dir else config


def main() -> None:
    args = command_of_runs(__doc__, VocoderTrainConfig).parse_args()
    config = config_of_run(args, VocoderTrainConfig())
    train_vocoder(config, args.run_dir, not args.restart, minutes=args.minutes, device=args.device, progress=True)


if __name__ == "__main__":
    main()
