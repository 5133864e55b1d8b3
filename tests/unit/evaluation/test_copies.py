"""The vocoder alone, beside Griffin-Lim."""

import json

import numpy as np
import pytest
import soundfile

from s2s.errors import ArtifactError, ProcessingError
from s2s.evaluation.copies import FRAMES, GRIFFIN_LIM, copy_synthesis, held_out_recordings
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig


def test_only_recordings_that_training_does_not_hear_are_copied(tmp_path):
    with pytest.raises(ProcessingError, match="no sound bank"):
        held_out_recordings(tmp_path)
    knock = np.exp(-np.arange(4000) / 300) * np.random.default_rng(0).standard_normal(4000)
    common = {"kind": "wood", "package": "p", "version": "1", "original": "o", "license": "CC0-1.0", "author": "a"}
    records = [{**common, "file": f"{split}.flac", "split": split} for split in ("train", "test")]
    for record in records:
        soundfile.write(tmp_path / record["file"], 0.5 * knock / np.abs(knock).max(), 22_050)
    (tmp_path / "bank.json").write_text(json.dumps(records))
    clips = held_out_recordings(tmp_path)
    assert [clip.shape for clip in clips] == [(FRAMES * 256,)]
    attack = int(np.abs(clips[0]).argmax())
    assert 0.1 * 22_050 <= attack < 0.15 * 22_050
    assert 0 < np.abs(clips[0][:2000]).max() < 0.02, "a quiet room before it"


def test_both_methods_are_measured_on_the_same_sounds_and_a_bad_vocoder_shows():
    noise = np.random.default_rng(1).standard_normal(FRAMES * 256).astype(np.float32)
    sound = 0.3 * noise * np.exp(-(np.arange(len(noise)) % 8000) / 900).astype(np.float32)
    untrained = ParallelWaveNet(
        ParallelWaveNetConfig(layers=2, stacks=1, residual_channels=8, skip_channels=8, cond_channels=8, corrections=0)
    ).eval()
    means = copy_synthesis(untrained, [sound])
    assert set(means) == {"this bundle's vocoder", GRIFFIN_LIM}
    assert means[GRIFFIN_LIM]["f1_50ms"] > 0.7
    assert means[GRIFFIN_LIM]["mel_l1_db"] < means["this bundle's vocoder"]["mel_l1_db"]
    with pytest.raises(ArtifactError, match="no WaveNet"):
        copy_synthesis(None, [sound])
