"""What a model has to beat: onsets that need no learning."""

from __future__ import annotations

import numpy as np

from s2s.motion import CELL_CHANNELS, MotionFeatures
from s2s.timing.detect import detect_events


def motion_energy(motion: MotionFeatures) -> np.ndarray:
    """float (N,) on the 50 Hz grid: how much is moving in the whole picture."""
    return np.sinh(motion.cells[..., CELL_CHANNELS.index("speed_rms")]).mean(axis=1)


def peaks_of_energy(energy: np.ndarray, gap_s: float = 0.2) -> np.ndarray:
    """Onset times in seconds, float64 (K,)."""
    energy = energy / max(1e-6, float(energy.max()))
    return np.array([d.time_s for d in detect_events(energy, threshold_share=0.5, floor=0.05, gap_s=gap_s)])


def motion_energy_peaks(motion: MotionFeatures, gap_s: float = 0.2) -> np.ndarray:
    """Onset times in seconds, float64 (K,): peaks of how much is moving in the whole picture."""
    return peaks_of_energy(motion_energy(motion), gap_s)
