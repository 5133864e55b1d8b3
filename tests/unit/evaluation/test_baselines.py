"""What needs no learning finds what is plain to see, and nothing where nothing moves."""

from __future__ import annotations

import cv2
import numpy as np

from s2s.evaluation.baselines import motion_energy_peaks
from s2s.motion import MotionExtractor


def motion_of(position, duration_s: float = 4.0, rate: int = 30):
    noise = np.random.default_rng(0).integers(0, 256, (90, 160)).astype(np.uint8)
    background = cv2.GaussianBlur(noise, (0, 0), 3)
    extractor = MotionExtractor()
    for k in range(round(duration_s * rate)):
        frame = background.copy()
        cv2.circle(frame, (80 * 16, round((15 + 60 * position(k / rate)) * 16)), 12 * 16, 255, -1, cv2.LINE_AA, 4)
        extractor.push(frame, k / rate)
    return extractor.finish(duration_s)


def test_moments_of_much_motion_are_found():
    motion = motion_of(lambda t: min(1.0, (t % 1.0 / 0.5) ** 2) if t % 1.0 < 0.7 else 1.0 - (t % 1.0 - 0.7) / 0.3)
    assert len(motion_energy_peaks(motion)) >= 4


def test_a_still_clip_has_no_onsets():
    assert len(motion_energy_peaks(motion_of(lambda t: 0.5))) == 0
