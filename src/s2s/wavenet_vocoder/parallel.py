"""A parallel WaveNet vocoder: the whole waveform in one pass, in place of one sample after the other.

It is the WaveNet stack of van den Oord et al. 2016 (dilated convolutions, tanh-sigmoid gates, residual and skip paths,
local conditioning in every layer), run without causality on noise as in Parallel WaveGAN (Yamamoto et al. 2020). Three
things differ, each because impacts must be sharp, tones steady and a CPU core enough:

- The stack takes `step_length` samples at a time (64: 2.9 ms). Noise enters, and sound leaves, as short spectra of
  that hop (as in iSTFTNet, Kaneko et al. 2022), scaled by the mel spectrogram itself, so that the net has to learn
  neither the level (100 dB of it) nor the rough colour, only what a mel spectrogram does not say. A mel frame looks at
  46 ms, so an attack is spread over four of them: `Sharpen` undoes part of that, a gain every 16 samples the rest.
- Beside the noise it hears where the step lies in a period of `phase_period` steps. A stack that sees only noise and a
  steady mel can make no steady tone: nothing in its input has a phase. From this it can make any multiple of
  sample_rate / (step_length * phase_period) = 10.8 Hz.
- The last layer compares the mel spectrogram of what was made with the one that was asked for and corrects the
  difference in a few rounds (`MelCorrection`): fewer in training, where each costs a backward pass.

Fully convolutional and deterministic given (mel, noise): a window of a longer clip, cut at a multiple of
`align_frames`, gives the samples that the whole clip gives, `receptive_frames` away from the cuts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from s2s.mel import mel_filterbank
from s2s.spec import MelSpec

MIN_FRAMES = 4  # what the reflection at the ends of a spectrogram needs; shorter clips are made this long and cut
_FLOOR = 1e-4  # linear mel amplitude at mel = 0 on the published scale


class ParallelWaveNetConfig(BaseModel):
    """Sizes of a ParallelWaveNet; they travel with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["parallel"] = "parallel"
    step_length: int = Field(64, gt=0, description="samples a step; divides the mel hop")
    step_fft: int = Field(256, gt=0, description="window of the short spectra, samples")
    layers: int = Field(10, gt=0)
    stacks: int = Field(2, gt=0, description="dilations double from 1 within each stack")
    kernel_size: int = 3
    residual_channels: int = 96
    skip_channels: int = 96
    cond_channels: int = 64
    cond_kernel: int = Field(5, description="mel frames that the conditioning sees at once")
    phase_period: int = Field(32, description="steps")
    sharpen_rounds: int = Field(6, ge=0, description="of the deconvolution in time")
    gains_per_step: int = Field(4, gt=0, description="of the last gain; divides the step")
    corrections: int = Field(16, ge=0, description="rounds of the mel correction when generating")

    @property
    def dilations(self) -> tuple[int, ...]:
        per_stack = self.layers // self.stacks
        return tuple(2 ** (i % per_stack) for i in range(self.layers))


class ParallelWaveNet(nn.Module):
    """mel (B, 80, M) in 0 .. 1, noise (B, M * 256) of unit variance -> waveform (B, M * 256)."""

    def __init__(self, config: ParallelWaveNetConfig = ParallelWaveNetConfig(), spec: MelSpec = MelSpec()):
        super().__init__()
        if spec.hop_length % config.step_length or config.layers % config.stacks:
            raise ValueError("step_length must divide the mel hop, and stacks the layers")
        if config.step_fft % config.step_length:
            raise ValueError("step_length must divide step_fft")
        self.config, self.spec = config, spec
        bins = config.step_fft // 2 + 1
        self.first = nn.Conv1d(2 * bins, config.residual_channels, 1)
        self.phase = nn.Parameter(0.5 * torch.randn(config.residual_channels, config.phase_period))
        self.cond = nn.Sequential(
            nn.Conv1d(spec.n_mels, config.cond_channels, config.cond_kernel, padding=config.cond_kernel // 2),
            nn.LeakyReLU(0.1),
            nn.Conv1d(config.cond_channels, config.cond_channels, 1),
        )
        self.sharpen = Sharpen(spec, config)
        self.cond_sharp = nn.Conv1d(spec.n_mels, config.cond_channels, 1)
        self.stack = nn.ModuleList(GatedLayer(config, dilation) for dilation in config.dilations)
        self.last = nn.Sequential(
            nn.LeakyReLU(0.1),
            nn.Conv1d(config.skip_channels, config.skip_channels, 1),
            nn.LeakyReLU(0.1),
            nn.Conv1d(config.skip_channels, 4 * bins + config.gains_per_step, 1),
        )
        with torch.no_grad():  # start as noise in the colour of the mel spectrogram
            self.last[-1].weight.mul_(0.1)
            self.last[-1].bias.zero_()
            self.last[-1].weight[4 * bins :].zero_()
            self.last[-1].bias[bins : 2 * bins] = 0.8
        self.correct = MelCorrection(spec)
        self.register_buffer("step_window", torch.hann_window(config.step_fft), persistent=False)
        self.register_buffer("colour", torch.from_numpy(_spread(spec, config.step_fft)), persistent=False)

    @property
    def receptive_frames(self) -> int:
        """Mel frames on either side that a sample can depend on."""
        config, hop = self.config, self.spec.hop_length
        steps = sum(config.dilations) * (config.kernel_size // 2)
        samples = (steps + 1) * config.step_length + config.step_fft
        samples += (config.corrections + config.sharpen_rounds) * self.spec.n_fft
        return -(-samples // hop) + config.cond_kernel // 2 + 2

    @property
    def align_frames(self) -> int:
        """Windows must start at a multiple of this many mel frames, or the phase input differs."""
        per_frame = self.spec.hop_length // self.config.step_length
        return max(1, self.config.phase_period // per_frame)

    def forward(self, mel: Tensor, noise: Tensor, corrections: int | None = None) -> Tensor:
        """`corrections` other than the config's are for training. mel must be on the published scale."""
        config = self.config
        if (missing := MIN_FRAMES - mel.shape[-1]) > 0:
            n = mel.shape[-1] * self.spec.hop_length
            mel = torch.cat([mel, mel[..., -1:].expand(-1, -1, missing)], dim=-1)
            noise = torch.cat([noise, noise.new_zeros(noise.shape[0], missing * self.spec.hop_length)], dim=-1)
            return self(mel, noise, corrections)[:, :n]
        length = mel.shape[-1] * self.spec.hop_length
        frames = {"n_fft": config.step_fft, "hop_length": config.step_length, "window": self.step_window}
        # unit variance in every bin: sum of the squared Hann window is 3/8 of its length
        shimmer = torch.stft(noise, **frames, center=True, pad_mode="constant", return_complex=True)
        shimmer = torch.view_as_real(shimmer) / (0.375 * config.step_fft) ** 0.5  # (B, F, T, 2)
        n_steps = shimmer.shape[2]

        sharp_db = self.sharpen(mel, self._upsample(mel, n_steps))
        level_db = self.colour @ sharp_db
        magnitude = torch.exp(level_db * (np.log(10) / 20)) * (0.375 * config.step_fft) ** 0.5

        cond = (self._upsample(self.cond(2 * mel - 1), n_steps) + self.cond_sharp(sharp_db / 50 + 0.6)).mT
        x = self.first(torch.cat([shimmer[..., 0], shimmer[..., 1]], dim=1))
        x = (x + self.phase[:, torch.arange(n_steps, device=x.device) % config.phase_period]).mT
        skip = torch.zeros((), device=x.device)
        for layer in self.stack:
            x, to_skip = layer(x, cond)
            skip = skip + to_skip
        out = self.last(skip.mT * len(self.stack) ** -0.5)
        n_bins = self.colour.shape[0]
        gain, grain, real, imag, late_gain = out.split([n_bins] * 4 + [config.gains_per_step], dim=1)
        scale = magnitude * torch.exp(gain.clamp(-8, 3))
        spectrum = torch.complex(scale * (grain * shimmer[..., 0] + real), scale * (grain * shimmer[..., 1] + imag))
        short = torch.fft.irfft(spectrum.mT, n=config.step_fft) * self.step_window
        waveform = _overlap_add(short, config.step_length, length)
        waveform = waveform / _overlap_add(self.step_window.square().expand(1, n_steps, -1), config.step_length, length)
        # a window of step_fft samples cannot begin at once: the gain can, to a quarter of a step
        late_gain = F.interpolate(
            late_gain.mT.flatten(1)[:, None].clamp(-8, 2),
            mode="linear",
            scale_factor=config.step_length // config.gains_per_step,
        )[:, 0]
        before = config.step_length // 2  # a step is centred on its sample
        waveform = waveform * torch.exp(late_gain[:, before : before + length])
        return self.correct(waveform, mel, config.corrections if corrections is None else corrections)

    def _upsample(self, x: Tensor, n_steps: int) -> Tensor:
        """(B, C, M) at mel frames -> (B, C, n_steps); mel frame i and step i * hop / step_length share their centre."""
        per_frame = self.spec.hop_length // self.config.step_length
        following = torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
        weight = torch.arange(per_frame, device=x.device, dtype=x.dtype) / per_frame
        fine = torch.lerp(x[..., None], following[..., None], weight).flatten(-2)
        return torch.cat([fine, x[..., -1:]], dim=-1)[..., :n_steps]


class Sharpen(nn.Module):
    """Undo what the analysis window smeared in time: mel (B, n_mels, M), the same interpolated (B, n_mels, T) -> dB.

    Richardson-Lucy deconvolution (Richardson 1972) of the energy of each band with the squared window: a few rounds
    pull an attack together and leave what is steady as it is.
    """

    def __init__(self, spec: MelSpec, config: ParallelWaveNetConfig):
        super().__init__()
        self.rounds, self.stride = config.sharpen_rounds, spec.hop_length // config.step_length
        reach = spec.win_length // 2 // config.step_length - 1  # the window is zero at its ends
        at = np.arange(-reach, reach + 1) * config.step_length / spec.win_length
        window = (0.5 + 0.5 * np.cos(2 * np.pi * at)) ** 2  # of energy: the Hann window, squared
        window = torch.from_numpy(window / window.sum()).float()
        self.register_buffer("smear", window[None, None], persistent=False)

    def forward(self, mel: Tensor, fine: Tensor) -> Tensor:
        batch, bands, n_steps = fine.shape
        pad = self.smear.shape[2] // 2
        energy = 10 ** (10 * torch.cat([mel, mel[..., -1:]], dim=2).flatten(0, 1)[:, None] - 8)
        sharp = 10 ** (10 * fine.flatten(0, 1)[:, None] - 8)
        back = {"weight": self.smear, "stride": self.stride, "padding": pad}
        weight = F.conv_transpose1d(torch.ones_like(energy[:1]), **back)
        for _ in range(self.rounds):
            smeared = F.conv1d(F.pad(sharp, (pad, pad), mode="replicate"), self.smear, stride=self.stride)
            ratio = (energy / (smeared + 1e-9)).clamp(0.05, 20)
            sharp = sharp * F.conv_transpose1d(ratio, **back) / weight
        return 10 * torch.log10(sharp + 1e-9).view(batch, bands, n_steps)


class GatedLayer(nn.Module):
    """One WaveNet layer, channels last: (B, T, R), conditioning (B, T, C) -> residual (B, T, R), skip (B, T, S).

    The dilated convolution and the conditioning are one product of matrices: a tenth faster on a CPU than two
    convolutions, forward and backward. The weights keep the names and shapes of convolutions.
    """

    def __init__(self, config: ParallelWaveNetConfig, dilation: int):
        super().__init__()
        width = config.residual_channels
        self.conv = nn.Conv1d(width, 2 * width, config.kernel_size, dilation=dilation)
        self.cond = nn.Conv1d(config.cond_channels, 2 * width, 1, bias=False)
        self.out = nn.Conv1d(width, width + config.skip_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        n_steps, width = x.shape[1:]
        kernel_size, dilation = self.conv.kernel_size[0], self.conv.dilation[0]
        reach = dilation * (kernel_size // 2)
        padded = F.pad(x, (0, 0, reach, reach))
        taps = [padded[:, k * dilation : k * dilation + n_steps] for k in range(kernel_size)]
        weight = torch.cat([self.conv.weight.mT.flatten(1), self.cond.weight[..., 0]], dim=1)
        signal, gate = F.linear(torch.cat([*taps, cond], dim=2), weight, self.conv.bias).chunk(2, dim=2)
        out = F.linear(torch.tanh(signal) * torch.sigmoid(gate), self.out.weight[..., 0], self.out.bias)
        return (x + out[..., :width]) * 0.5**0.5, out[..., width:]


class MelCorrection(nn.Module):
    """Bring the mel spectrogram of a waveform to the one that was asked for, by rounds of gains in the STFT domain.

    waveform (B, N), mel (B, n_mels, N / hop) -> (B, N). Each round is a projection as in Griffin-Lim, but onto the mel
    bands alone: the fine structure and the phases stay the net's. Bins that no band hears keep their level. Overlapping
    frames undo part of every change, hence the rounds, with `RELAXATION` and the momentum of Perraudin et al. 2013.
    Both were chosen on held-out mixtures: 16 rounds leave 0.52 dB of mel difference, 0.61 dB with 1.2 and 0.5.
    """

    RELAXATION = 1.3
    MOMENTUM = 0.7
    LIMIT_DB = 20.0

    def __init__(self, spec: MelSpec):
        super().__init__()
        if spec.win_length != spec.n_fft or spec.n_fft % spec.hop_length:
            raise ValueError("the window must be as long as the transform, and whole hops of it")
        self.spec = spec
        bank = torch.from_numpy(mel_filterbank(spec).copy())
        self.register_buffer("bank", bank, persistent=False)
        hears = bank.sum(0, keepdim=True)
        self.register_buffer("share", (bank / hears.clamp_min(1e-9) * (hears > 1e-4)).T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(spec.win_length), persistent=False)

    def forward(self, waveform: Tensor, mel: Tensor, rounds: int) -> Tensor:
        # Spectra are (B, M + 1, F, 2), real and imaginary part last: torch.stft and istft cost twice the time, and a
        # complex number times a real one is a complex product.
        wanted_db = (100 * torch.cat([mel, mel[..., -1:]], dim=-1) - 80).mT
        hop, length = self.spec.hop_length, waveform.shape[-1]
        scale = _overlap_add(self.window.square().expand(1, wanted_db.shape[1], -1), hop, length)
        before = None
        for _ in range(rounds):
            spectrum = self._spectrum(waveform)
            pushed = spectrum if before is None else torch.lerp(before, spectrum, 1 + self.MOMENTUM)
            real, imaginary = pushed.unbind(-1)
            magnitude = torch.addcmul(real.square() + 1e-18, imaginary, imaginary).sqrt()  # a slope at 0, for training
            has_db = 20 * torch.log10((magnitude @ self.bank.T).clamp_min(_FLOOR))
            missing_db = (wanted_db - has_db).clamp(-self.LIMIT_DB, self.LIMIT_DB)
            gain = torch.exp((missing_db * (self.RELAXATION * np.log(10) / 20)) @ self.share.T)
            frames = torch.fft.irfft(torch.view_as_complex(pushed * gain[..., None]), n=self.spec.n_fft) * self.window
            waveform = _overlap_add(frames, hop, length) / scale
            before = spectrum
        return waveform

    def _spectrum(self, waveform: Tensor) -> Tensor:
        """(B, N) -> (B, 1 + N / hop, F, 2): frame i is centred on sample i * hop, the ends are reflected."""
        half = self.spec.n_fft // 2
        padded = F.pad(waveform[:, None], (half, half), mode="reflect")[:, 0]
        frames = padded.unfold(-1, self.spec.n_fft, self.spec.hop_length) * self.window
        return torch.view_as_real(torch.fft.rfft(frames))


def _overlap_add(frames: Tensor, hop: int, length: int) -> Tensor:
    """Windowed frames (B, T, n_fft), frame i centred on sample i * hop, added up -> (B, length).

    torch.istft takes twice the time and looks at its own result, for which a GPU would have to be waited for.
    """
    batch, n_frames, n_fft = frames.shape
    per_frame = n_fft // hop
    total = frames.new_zeros(batch, n_frames + per_frame - 1, hop)
    for k in range(per_frame):
        total[:, k : k + n_frames] += frames[..., k * hop : (k + 1) * hop]
    return total.flatten(1)[:, n_fft // 2 : n_fft // 2 + length]


def _spread(spec: MelSpec, n_fft: int) -> np.ndarray:
    """float32 (n_fft // 2 + 1, n_mels): mel bands (dB) to the bins of a spectrum (dB).

    Linear between the band centres; a bin wider than the bands takes the mean of those it covers. Outside of the mel
    range the nearest band counts.
    """
    bank = mel_filterbank(spec)
    hz = np.arange(bank.shape[1]) * spec.sample_rate / spec.n_fft
    centres = (bank * hz).sum(1) / bank.sum(1)
    width = spec.sample_rate / n_fft
    grid = np.linspace(-0.5, 0.5, 9)
    out = np.zeros((n_fft // 2 + 1, spec.n_mels), np.float32)
    for k in range(len(out)):
        for at in (k + grid) * width:
            right = int(np.searchsorted(centres, at))
            if right == 0 or right == len(centres):
                out[k, min(right, len(centres) - 1)] += 1
            else:
                share = (at - centres[right - 1]) / (centres[right] - centres[right - 1])
                out[k, right - 1] += 1 - share
                out[k, right] += share
    return out / len(grid)


def position_noise(seed: int, start: int, length: int) -> np.ndarray:
    """float32 (length,), white, unit variance, uniform; sample i depends on (seed, start + i) alone.

    Philox (Salmon et al. 2011) is a function of a counter, so any stretch of the noise can be had without the rest.
    """
    first_block = start // 4  # a block of the 64-bit generator holds four values
    raw = np.random.Philox(key=seed & (2**64 - 1), counter=first_block).random_raw(length + start % 4 + 4)
    uniform = (raw[start % 4 : start % 4 + length] >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1
    return uniform * np.float32(3**0.5)
