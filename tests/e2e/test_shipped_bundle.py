"""The bundle that ships, on clips it was not trained on, through the whole pipeline."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from tests.clips import film
from tests.published import make_random_published

from s2s.bundle import read_manifest, verify_bundle
from s2s.config import REPO_ROOT, settings
from s2s.demo import DEMO_CLIP
from s2s.evaluation.alignment import detect_onsets, onset_f1, score_alignment
from s2s.evaluation.files import score_files
from s2s.events import Moment
from s2s.media.audio import read_audio
from s2s.picture import draw_result
from s2s.pipeline import ROOM_TONE_NOTE, Options, SoundGenerator
from s2s.synth.samples import NUMBER_OF_NAME

BUNDLE = REPO_ROOT / "model_store" / "s2s-small"
LIMITS = settings().cli_limits


@pytest.fixture(scope="module")
def generator() -> SoundGenerator:
    return SoundGenerator.from_bundle(BUNDLE)


def sample(name: str) -> tuple[Path, np.ndarray]:
    """A sample clip and the exact times of its contacts, from the script that it was drawn from."""
    events = json.loads(DEMO_CLIP.with_name("samples.json").read_text())[name]
    return DEMO_CLIP.with_name(f"{name}.mp4"), np.array([event["time_s"] for event in events])


def test_the_shipped_bundle_is_whole_small_and_says_what_it_is():
    manifest = verify_bundle(BUNDLE)
    assert sum(entry.bytes for entry in manifest.networks.values()) < 20_000_000
    assert {"timing", "tsn_rgb", "tsn_flow", "regnet", "vocoder"} <= set(manifest.networks)
    assert manifest.licence == "Apache-2.0"
    assert manifest.trained_on
    assert all(source.licence in ("Apache-2.0", "CC0", "CC0-1.0", "MIT", "Expat", "CC-BY-4.0")
               for source in manifest.trained_on)
    measured = manifest.metrics["rendered_held_out"]
    assert measured["strict_skill"] > measured["shuffled_strict_skill"] + 0.2


def test_held_out_clips_are_sounded_when_things_touch_and_not_at_other_times(generator):
    """Renders of the test split: other movers, textures and backgrounds than in training."""
    skills = []
    for name in NUMBER_OF_NAME:
        video, times = sample(name)
        onsets = detect_onsets(generator.generate(video, limits=LIMITS).waveform)
        skills.append(score_alignment(times, onsets, 6.0).strict_skill)
    assert np.mean(skills) > 0.3, skills


def test_what_the_report_says_is_what_is_heard(generator):
    video, _ = sample("drum")
    sound = generator.generate(video, limits=LIMITS)
    told = np.array([event.time_s for event in sound.events])
    assert len(told) > 2
    assert onset_f1(told, detect_onsets(sound.waveform), 0.05) > 0.6
    assert sound.category in read_manifest(BUNDLE).categories


def test_moments_that_a_person_marks_are_the_ones_that_are_heard(generator):
    video, _ = sample("drum")
    marked = (Moment(4.25, 0.5), Moment(1.0), Moment(2.13))
    sound = generator.generate(video, limits=LIMITS, options=Options(events=marked))
    times = [1.0, 2.13, 4.25]
    assert [event.time_s for event in sound.events] == times
    assert onset_f1(np.array(times), detect_onsets(sound.waveform), 0.05) == 1.0
    nothing = generator.generate(video, limits=LIMITS, options=Options(events=()))
    assert (nothing.events, nothing.notes) == ([], [ROOM_TONE_NOTE])


def test_a_still_picture_gets_quiet_room_tone_and_no_invented_hits(generator, tmp_path):
    still = film(tmp_path / "still.mp4", "-vf", "loop=-1:1:0,trim=duration=3,setpts=N/25/TB", seconds=3, rate="25")
    sound = generator.generate(still, limits=LIMITS)
    assert sound.events == []
    assert sound.notes == [ROOM_TONE_NOTE]
    assert np.abs(sound.waveform).max() < 0.05


def test_every_kind_sounds_unlike_the_others(generator):
    video, _ = sample("hammer")
    spectra = {}
    for kind in generator.categories:
        mel = generator.generate(video, limits=LIMITS, options=Options(category=kind, vocoder="griffinlim")).mel
        spectra[kind] = mel.clip(0, 1).mean(axis=1)
    kinds = list(spectra)
    gaps = {(a, b): np.abs(spectra[a] - spectra[b]).mean() for i, a in enumerate(kinds) for b in kinds[:i]}
    assert min(gaps.values()) > 0.005, sorted(gaps.items(), key=lambda item: item[1])[:3]


def test_evaluate_finds_a_file_perfectly_aligned_with_itself(generator, tmp_path):
    video, _ = sample("drum")
    generator.generate_file(video, tmp_path / "out.mp4", limits=LIMITS)
    score = score_files(tmp_path / "out.mp4", tmp_path / "out.mp4")
    assert (score.f1_50ms, score.strict_skill) == (1.0, 1.0)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert {stream.codec_context.name for stream in out.streams} >= {"h264", "aac"}


def test_the_picture_of_a_result_is_drawn(generator, tmp_path):
    video, _ = sample("ball")
    draw_result(video, generator.generate(video, limits=LIMITS), tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "result.png").stat().st_size > 20_000


def test_a_bundle_of_the_published_shape_runs_the_whole_pipeline(tmp_path):
    """Random weights in the published file formats, imported, then a video with sound comes out."""
    bundle = tmp_path / "published"
    make_random_published(bundle, seed=1, small=True)
    video = film(tmp_path / "clip.mp4", seconds=1.5, rate="25")
    generator = SoundGenerator.from_bundle(bundle)
    sound = generator.generate_file(video, tmp_path / "out.mp4", limits=LIMITS)
    assert len(read_audio(tmp_path / "out.mp4", 22_050)) == pytest.approx(1.5 * 22_050, abs=1024)
    assert np.isfinite(sound.waveform).all()
    assert json.dumps(sound.report())
