"""Training of the autoregressive WaveNet: the parallel one's sounds, runs and checkpoints, another loss.

Teacher forced: each sample is foretold from the true ones before it and the mel of its moment, and the loss is the
negative log-likelihood of the 16-bit level that holds it under a mixture of logistics (PixelCNN++, Salimans et al.
2017) or a categorical. The mel is of the true sound, as in published vocoders. `history_noise` makes the past samples
less worth trusting than the mel (FFTNet, Jin et al. 2018, section 2.3.3): a net that always heard the truth hardly
looks at its mel, and drifts when it hears itself.

    python -m s2s.training.wavenet --run-dir runs/wavenet --minutes 20 [--recipe small|published]

`RUN_DIR/bundle` is the served bundle with this vocoder in the place of its own; `s2s bundle calibrate RUN_DIR/bundle`
tries it in 8 bits, and `s2s generate --bundle RUN_DIR/bundle` plays it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from s2s.bundle import BundleManifest, load_bundle, save_bundle
from s2s.config import settings
from s2s.mel import MelTransform
from s2s.spec import MelSpec
from s2s.synth.sounds import SoundBank
from s2s.training.checkpoint import Ema
from s2s.training.vocoder import (
    SoundTrainConfig,
    command_of_runs,
    config_of_run,
    learning_rate,
    train_in,
    training_batch,
    update,
)
from s2s.wavenet_vocoder.config import PUBLISHED, SMALL, WaveNetConfig
from s2s.wavenet_vocoder.engine import generate_clip
from s2s.wavenet_vocoder.mixture import negative_log_likelihood, teacher_inputs
from s2s.wavenet_vocoder.wavenet import WaveNet


class WaveNetTrainConfig(SoundTrainConfig):
    model: WaveNetConfig = SMALL
    steps: int = Field(200_000, gt=0)
    batch: int = 4
    segment_frames: int = Field(12, description="mel frames; some receptive fields")
    sounds_per_batch: int = 3
    validation_clips: int = 6
    heard_clips: int = Field(2, description="held-out clips that are also generated; each takes a sample at a time")
    gradient_clip: float = 1.0
    ema_decay: float = 0.9995
    history_noise: float = Field(
        0.0, ge=0, description="most noise on the past samples that the net hears, share of the segment's rms"
    )


RECIPES = {
    "small": WaveNetTrainConfig(history_noise=0.5),
    "published": WaveNetTrainConfig(model=PUBLISHED, steps=1_000_000, batch=2, segment_frames=32, heard_clips=0),
}


class WaveNetTrainer:
    """As `VocoderTrainer`: `step_once` is one step; `state` and `restore` are its memory."""

    def __init__(self, config: WaveNetTrainConfig, device: str = "cpu"):
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(config.seed)
        self.bank = SoundBank("train", config.recorded_dir)
        self.model = WaveNet(config.model).to(self.device).train()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.ema = Ema(self.model, config.ema_decay)
        self.mel = MelTransform().to(self.device)
        self.step = 0
        self.best = math.inf

    def step_once(self) -> dict[str, float]:
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + self.step)  # dropout: a resumed run drops the same inputs
        true = torch.from_numpy(training_batch(config, self.bank, self.step)).to(self.device)
        loss = self._loss(self.model, true, self._history(true))
        rate = learning_rate(config, self.step)
        update(self.optimizer, self.model, loss, rate, config.gradient_clip)
        self.step += 1
        self.ema.update(self.model, self.step)
        return {"nats": loss.item(), "rate": rate}

    def _history(self, waveform: Tensor) -> Tensor:
        """(B, N): the waveform with noise of a random level, up to `history_noise` of its rms."""
        share = self.config.history_noise * torch.rand(len(waveform), 1, device=waveform.device)
        level = waveform.square().mean(1, keepdim=True).sqrt()
        return waveform + share * level * torch.randn_like(waveform)

    def _loss(self, model: WaveNet, waveform: Tensor, history: Tensor | None = None) -> Tensor:
        """(B, M * hop_length), and what the net hears of it (None: the truth) -> nats a sample, scalar."""
        mel = self.mel(waveform)[..., :-1]  # the last frame has no sample of its own
        inputs = teacher_inputs(waveform if history is None else history, model.config)
        return negative_log_likelihood(model(inputs, mel), waveform, model.config)

    @torch.no_grad()
    def validate(self, clips: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the averaged weights on held-out clips, and the first `heard_clips` as the net plays their mel."""
        model = self.averaged_model()
        nats = [self._loss(model, torch.from_numpy(clip)[None].to(self.device)).item() for clip in clips]
        scores, copies = {"total": float(np.mean(nats))}, []
        for i, clip in enumerate(clips[: self.config.heard_clips]):
            mel = self.mel(torch.from_numpy(clip)[None].to(self.device))[0]
            copies.append(generate_clip(model.cpu(), mel[:, :-1].cpu().numpy(), seed=i))
            made = self.mel(torch.from_numpy(copies[-1])[None].to(self.device))[0]
            scores["mel_db"] = scores.get("mel_db", 0.0) + 100 * F.l1_loss(made, mel).item() / self.config.heard_clips
        return scores, np.stack(copies) if copies else np.zeros((0, clips.shape[1]), np.float32)

    def averaged_model(self) -> WaveNet:
        model = WaveNet(self.config.model).to(self.device).eval()
        model.load_state_dict(self.ema.weights)
        return model

    def state(self) -> dict:
        return {
            "step": self.step,
            "best": self.best,
            "config": self.config.model_dump_json(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.weights,
        }

    def restore(self, state: dict) -> None:
        self.step, self.best = state["step"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.weights = state["ema"]


def train_wavenet(
    config: WaveNetTrainConfig,
    run_dir: Path,
    resume: bool = True,
    *,
    minutes: float | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """`run_dir`: see `train_in`; the JSON files are WaveNetConfigs. Returns the last validation scores."""
    if config.model.hop_length != MelSpec().hop_length or config.model.cin_channels != MelSpec().n_mels:
        raise ValueError("the net's mel is not that of this project (s2s.spec.MelSpec)")
    return train_in(Path(run_dir), WaveNetTrainer(config, device), resume, minutes=minutes, progress=progress)


def load_wavenet(stem: Path) -> WaveNet:
    """`STEM.json` and `STEM.safetensors` of a run."""
    net = WaveNet(WaveNetConfig.model_validate_json(stem.with_suffix(".json").read_text()))
    net.load_state_dict(load_file(stem.with_suffix(".safetensors")))
    return net.eval()


def bundle_with(net: WaveNet, served: Path, folder: Path) -> BundleManifest:
    """The bundle at `served`, with `net` as its vocoder and without its metrics, saved in `folder`."""
    bundle = load_bundle(served)
    manifest = bundle.manifest.model_copy(
        update={
            "name": f"{bundle.manifest.name}-wavenet",
            "default_vocoder": "wavenet",
            "metrics": {},
            "notes": f"{bundle.manifest.notes} Vocoder: an autoregressive WaveNet (s2s.training.wavenet).".strip(),
        }
    )
    return save_bundle(folder, manifest, {**bundle.networks, "vocoder": net})


def main() -> None:
    parser = command_of_runs(__doc__, WaveNetTrainConfig)
    parser.add_argument("--recipe", choices=RECIPES, default="small", help="the size of the net, where no --config is")
    args = parser.parse_args()
    config = config_of_run(args, RECIPES[args.recipe])
    train_wavenet(config, args.run_dir, not args.restart, minutes=args.minutes, device=args.device, progress=True)
    bundle_with(load_wavenet(args.run_dir / "best"), settings().bundle, args.run_dir / "bundle")


if __name__ == "__main__":
    main()
