"""Every measure says 'perfect' of the true sound, 'nothing' of silence, and tells a worse sound from a better one."""

from __future__ import annotations

import numpy as np
import pytest

from s2s.evaluation.alignment import detect_onsets
from s2s.evaluation.measures import SAMPLE_RATE, av_align, clicks, frechet_distance, likeness, offset_ms, onset_ap

TIMES = np.array([0.4, 1.1, 1.5, 2.4])
N = 3 * SAMPLE_RATE


def test_onset_precision_is_one_for_the_true_moments_and_falls_with_each_false_or_missing_one():
    def score(times: np.ndarray) -> float:
        return onset_ap(TIMES, times, clicks(times, N))

    assert score(TIMES) == pytest.approx(1)
    assert score(TIMES[:2]) < 0.9
    assert score(np.append(TIMES, [0.8, 2.0])) < 1
    assert score(np.array([0.7, 1.9])) < 0.7
    assert np.isnan(onset_ap(np.zeros(0), TIMES, clicks(TIMES, N)))


def test_sound_that_moves_with_the_picture_aligns_and_other_sound_does_not():
    assert av_align(TIMES, TIMES + 0.05) == 1
    assert av_align(TIMES + 0.3, TIMES) < 0.3
    assert av_align(np.zeros(0), TIMES) == 0
    assert av_align(np.zeros(0), np.zeros(0)) == 1


def test_a_late_sound_has_a_positive_offset():
    assert offset_ms(TIMES, TIMES + 0.04) == pytest.approx(40)
    assert offset_ms(TIMES, TIMES - 0.03) == pytest.approx(-30)
    assert np.isnan(offset_ms(TIMES, TIMES + 0.25))


def test_likeness_ranks_the_same_sound_before_a_softer_one_before_a_shifted_one_before_silence():
    rng = np.random.default_rng(0)
    true = clicks(TIMES, N) + rng.normal(0, 1e-3, N).astype(np.float32)
    same, softer = likeness(true, true), likeness(true, 0.7 * true)
    shifted, silent = likeness(true, np.roll(true, 4000)), likeness(true, np.zeros(N, np.float32))
    for name in ("mel_l1_db", "multi_resolution_stft"):
        assert same[name] == pytest.approx(0, abs=1e-4)
        assert same[name] < softer[name] < shifted[name]
        assert softer[name] < silent[name]
    assert same["envelope_correlation"] == pytest.approx(1)
    assert softer["envelope_correlation"] == pytest.approx(1)
    assert shifted["envelope_correlation"] < 0.2
    assert silent["envelope_correlation"] == 0


def test_the_distance_of_sets_grows_with_a_shift_and_is_nothing_for_the_same_set():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((300, 40)) * np.linspace(3, 0.1, 40)
    b = rng.standard_normal((300, 40)) * np.linspace(3, 0.1, 40)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) < 0.1 * frechet_distance(a, b + 2)
    assert np.isnan(frechet_distance(a, b[:1]))


def test_clicks_are_heard_where_they_are_put():
    found = detect_onsets(clicks(TIMES, N))
    assert len(found) == len(TIMES)
    assert np.abs(found - TIMES).max() < 0.05
