"""Files that are evaluated: their sound, read with little memory."""

import json
import tracemalloc

import numpy as np
import pytest
import soundfile
from tests.clips import clicks, film
from typer.testing import CliRunner

from s2s.cli import app
from s2s.evaluation.files import score_files, sound_of


def test_a_large_file_is_not_read_into_memory_to_be_recognised(tmp_path):
    path = film(tmp_path / "clip.mp4", seconds=1, rate="25", sound=True)
    with path.open("ab") as file:  # room at the end, as some recorders leave it: 200 MB that take no disk
        file.write((200_000_000).to_bytes(4, "big") + b"free")
        file.truncate(file.tell() + 200_000_000 - 8)
    tracemalloc.start()
    sound = sound_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sound) / 22_050 == pytest.approx(1.0, abs=0.1)
    assert peak < 50_000_000


def test_what_outlasts_the_reference_earns_nothing(tmp_path):
    hits_s = (0.7, 1.9, 3.3, 4.2)
    soundfile.write(tmp_path / "true.wav", clicks(hits_s, 5.0, 22_050), 22_050)
    late = [5 + time_s for time_s in hits_s]  # five silent seconds, then the same
    soundfile.write(tmp_path / "late.wav", clicks(late, 10.0, 22_050), 22_050)
    assert score_files(tmp_path / "true.wav", tmp_path / "true.wav").lag_corrected_skill == pytest.approx(1)
    score = score_files(tmp_path / "true.wav", tmp_path / "late.wav")
    assert score.n_candidate == 0
    assert not score.lag_corrected_skill > 0


def test_json_of_a_score_that_is_not_defined_is_json(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(22_050, np.float32), 22_050)
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "--json"])
    assert "NaN" not in result.stdout
    assert None in next(iter(json.loads(result.stdout).values())).values()
