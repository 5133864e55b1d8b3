"""The alignment score: chance is 0, perfect is 1, and a constant lag is forgiven once."""

from __future__ import annotations

import numpy as np
import pytest

from s2s.evaluation.alignment import ONSET_SAMPLE_RATE, detect_onsets, onset_f1, score_alignment


def random_onsets(rng: np.random.Generator, n: int = 14, duration_s: float = 8.0) -> np.ndarray:
    return np.sort(rng.uniform(0, duration_s, n))


def test_random_onsets_score_about_nothing():
    rng = np.random.default_rng(0)
    scores = [score_alignment(random_onsets(rng), random_onsets(rng), 8.0) for _ in range(80)]
    for skill in ("strict_skill", "lag_corrected_skill"):
        values = [getattr(s, skill) for s in scores]
        assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / np.sqrt(len(values)))
        assert abs(np.mean(values)) < 0.05
    assert np.mean([s.f1_100ms for s in scores]) > 0.2  # which is why F1 alone is not quoted


def test_perfect_onsets_score_one():
    onsets = random_onsets(np.random.default_rng(1))
    score = score_alignment(onsets, onsets[::-1], 8.0)
    assert (score.f1_50ms, score.f1_100ms, score.strict_skill) == (1.0, 1.0, 1.0)
    assert score.lag_corrected_skill == 1.0
    assert score.best_lag_s == pytest.approx(0.0, abs=0.016)


@pytest.mark.parametrize("lag_s", [-0.12, 0.09, 0.14])
def test_a_constant_lag_costs_the_strict_score_only(lag_s):
    onsets = np.linspace(1, 7, 11) + np.random.default_rng(2).uniform(-0.2, 0.2, 11)
    score = score_alignment(onsets, onsets + lag_s, 8.0)
    assert score.lag_corrected_skill == 1.0
    assert score.strict_skill < 0.3
    assert score.best_lag_s == pytest.approx(-lag_s, abs=0.055)


def test_a_lag_that_drifts_is_not_forgiven():
    onsets = np.linspace(0.5, 7.5, 15)
    score = score_alignment(onsets, onsets + np.linspace(-0.3, 0.3, 15) + 0.01, 8.0)
    assert score.lag_corrected_skill < 0.6


def test_one_onset_serves_one_match():
    assert onset_f1(np.array([1.0]), np.array([0.98, 1.02]), 0.05) == pytest.approx(2 / 3)
    assert onset_f1(np.array([1.0, 1.05]), np.array([1.04, 1.06]), 0.05) == 1.0
    assert onset_f1(np.array([]), np.array([]), 0.05) == 1.0
    assert onset_f1(np.array([1.0]), np.array([]), 0.05) == 0.0


def test_onsets_are_found_in_a_waveform_where_the_clicks_are():
    rng = np.random.default_rng(3)
    times = np.array([0.5, 1.1, 1.4, 2.2])
    wave = rng.normal(0, 1e-4, 3 * ONSET_SAMPLE_RATE)
    for t in times:
        n = round(t * ONSET_SAMPLE_RATE)
        wave[n : n + 2000] += rng.normal(0, 0.5, 2000) * np.exp(-np.arange(2000) / 300)
    found = detect_onsets(wave)
    assert onset_f1(times, found, 0.03) == 1.0
    assert onset_f1(times, detect_onsets(np.repeat(wave, 2), 2 * ONSET_SAMPLE_RATE), 0.03) == 1.0


def test_silence_has_no_onsets_and_an_undefined_skill_says_so():
    assert len(detect_onsets(np.zeros(22_050, np.float32))) == 0
    assert np.isnan(score_alignment(np.array([]), np.array([]), 5.0).strict_skill)
    assert np.isnan(score_alignment(np.array([0.2]), np.array([0.2]), 0.5).strict_skill)
