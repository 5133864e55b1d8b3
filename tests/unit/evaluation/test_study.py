"""One command on a set: every system is measured, the page stands alone, the input's own sound does not matter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.clips import edited, film
from tests.tiny import make_tiny_bundle
from typer.testing import CliRunner

from s2s.cli import app
from s2s.config import settings
from s2s.evaluation import kinds
from s2s.evaluation.report import _film
from s2s.evaluation.study import OURS, SYSTEMS, TRUE, clips_of_folder
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.synth.dataset import make_dataset
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip


@pytest.fixture(scope="module")
def sounding_films(tmp_path_factory) -> Path:
    """Three films with sound, in an ordinary folder."""
    folder, bank = tmp_path_factory.mktemp("films"), SoundBank("test")
    records = make_dataset(folder / "silent", 6, 5, "test", None, duration_s=3.0, short_side_px=96)
    for record in [record for record in records if record.events][:3]:
        sound, _ = mix_clip(record.events, record.duration_s, bank, np.random.default_rng(1))
        add_sound(probe(record.video, settings().cli_limits), sound, SAMPLE_RATE, folder / f"{record.id}.mp4")
    return folder


@pytest.mark.timeout(900)
def test_a_bundle_on_a_folder_of_videos_makes_a_report_that_needs_nothing_else(sounding_films: Path, tmp_path: Path):
    bundle, report = make_tiny_bundle(tmp_path / "bundle"), tmp_path / "report"
    arguments = ["evaluate", "--bundle", bundle, "--set", sounding_films, "--report", report, "--no-kinds"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output

    study = json.loads((report / "study.json").read_text())
    assert study["clips"] == 3
    assert set(study["means"]) == set(SYSTEMS)
    assert study["means"][TRUE]["f1_50ms"] == 1  # the true onsets are those of the true sound
    assert study["means"][TRUE]["mel_l1_db"] == pytest.approx(0, abs=1e-3)
    assert study["means"]["silence"]["mel_l1_db"] > study["means"]["true mel, Griffin-Lim 32"]["mel_l1_db"]
    assert study["means"]["silence"]["f1_50ms"] == 0
    if study["leak_guard"]:  # an untrained timing net may find no event
        assert study["leak_guard"] == {"largest_change": 0.0, "length_change": 0.0}

    page = (report / "index.html").read_text()
    assert page.count("<video") == 6
    assert OURS in page
    addresses = re.findall(r"(?:src|href)=['\"](.{0,12})", page)
    assert addresses
    assert all(address.startswith("data:") for address in addresses)


def test_a_clip_strung_together_from_pieces_has_a_player_too(tmp_path: Path):
    strung = edited(film(tmp_path / "whole.mp4", seconds=2), tmp_path / "strung.mp4", (0, 1), (1.5, 0.5))
    assert "<video" in _film(strung, np.zeros(SAMPLE_RATE, np.float32), OURS)


def test_a_folder_without_sound_is_refused_with_a_hint_before_anything_is_fetched(sounding_films: Path, monkeypatch):
    monkeypatch.setattr(kinds, "kind_judge", lambda *_, **__: pytest.fail("0.4 GB for nothing"))
    assert len(clips_of_folder(sounding_films)) == 3
    assert "is no folder" in str(CliRunner().invoke(app, ["evaluate", "--set", "nowhere"]).exception)
    result = CliRunner().invoke(
        app, ["evaluate", "--set", str(next((sounding_films / "silent").glob("shard-*/video")))]
    )
    assert result.exit_code != 0
    assert "no video with sound" in str(result.exception)


def test_nothing_to_evaluate_says_what_to_give():
    assert "--renders" in str(CliRunner().invoke(app, ["evaluate"]).exception)
