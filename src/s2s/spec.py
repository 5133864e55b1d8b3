"""Facts of time and sound. Lengths are derived from here and nowhere else. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction


@dataclass(frozen=True)
class MelSpec:
    """How a waveform becomes a mel spectrogram: the published REGNET front end (magnitude mel, 20 log10, [0, 1])."""

    sample_rate: int = 22_050  # Hz, mono
    n_fft: int = 1024
    win_length: int = 1024  # periodic Hann
    hop_length: int = 256
    n_mels: int = 80
    fmin: float = 125.0  # Hz
    fmax: float = 7600.0  # Hz
    min_level_db: float = -100.0
    ref_level_db: float = 20.0

    @property
    def frame_rate(self) -> Fraction:
        """Mel frames a second, exact: 22050/256 = 86.13 Hz."""
        return Fraction(self.sample_rate, self.hop_length)

    def n_samples(self, n_mel_frames: int) -> int:
        """Samples that a vocoder makes of `n_mel_frames`."""
        return n_mel_frames * self.hop_length


@dataclass(frozen=True)
class ClipSpec:
    """How video time, mel time and sample time hang together.

    `mel_per_frame` mel frames belong to each feature frame. With the default rate of 22050/1024 = 21.533 Hz that holds
    exactly; the published 21.5 Hz drifts by 13 ms over 10 s and is kept for published weights alone.
    """

    mel: MelSpec = MelSpec()
    mel_per_frame: int = 4
    video_rate: Fraction = Fraction(22_050, 1024)  # feature frames a second

    def n_frames(self, duration_s: float | Fraction) -> int:
        """Feature frames needed to cover `duration_s` (rounded up, at least one)."""
        return max(1, -(-Fraction(duration_s).limit_denominator(10**9) * self.video_rate // 1).__int__())

    def n_mel_frames(self, n_frames: int) -> int:
        return n_frames * self.mel_per_frame

    def n_samples(self, n_frames: int) -> int:
        return self.mel.n_samples(self.n_mel_frames(n_frames))

    def to_dict(self) -> dict:
        """JSON form for bundle.json; the rate is a "numerator/denominator" string so that nothing is rounded."""
        return {"mel": asdict(self.mel), "mel_per_frame": self.mel_per_frame, "video_rate": str(self.video_rate)}

    @classmethod
    def from_dict(cls, data: dict) -> ClipSpec:
        return cls(MelSpec(**data["mel"]), int(data["mel_per_frame"]), Fraction(data["video_rate"]))


PUBLISHED_CLIP = ClipSpec(video_rate=Fraction(43, 2))
"""REGNET's own clip: 21.5 fps; 10 s are 215 feature frames, 860 mel frames, 220,160 samples."""

TIMING_RATE = 50  # Hz, the grid of the timing net; frame rate is no longer an input on it
