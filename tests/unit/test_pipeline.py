"""Promises of the main job. Random weights: what is promised here does not depend on training."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from tests.clips import clicks, film, packets
from tests.tiny import make_tiny_bundle

from s2s.bundle import load_bundle, save_bundle
from s2s.config import settings
from s2s.errors import ArtifactError, Canceled, InputError
from s2s.events import Stage
from s2s.media.audio import read_audio
from s2s.pipeline import MOVED_OUT_NOTE, ROOM_TONE_NOTE, Moment, Options, SoundGenerator, _in_time, _windows
from s2s.spec import PUBLISHED_CLIP

LIMITS = settings().cli_limits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def generator(bundle) -> SoundGenerator:
    return SoundGenerator.from_bundle(bundle)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=2.4, rate="25")


def test_silent_upload_still_gets_sound(generator, clip, tmp_path):
    assert not any(stream.type == "audio" for stream in av.open(str(clip)).streams)
    sound = generator.generate_file(clip, tmp_path / "out.mp4", limits=LIMITS)
    heard = read_audio(tmp_path / "out.mp4", 22_050)
    assert np.isfinite(heard).all()
    assert len(heard) == pytest.approx(2.4 * 22_050, abs=1024)
    assert sound.report()["duration_s"] == pytest.approx(2.4, abs=0.05)


def test_the_sound_is_exactly_as_long_as_the_video(generator, tmp_path):
    for seconds, rate in ((0.5, "30"), (1.3, "24000/1001"), (3.1, "15")):
        video = film(tmp_path / f"{seconds}.mp4", seconds=seconds, rate=rate)
        sound = generator.generate(video, limits=LIMITS)
        assert len(sound.waveform) == round(sound.duration_s * sound.sample_rate)


def test_the_original_picture_is_untouched(generator, clip, tmp_path):
    generator.generate_file(clip, tmp_path / "out.mp4", limits=LIMITS)
    assert packets(tmp_path / "out.mp4") == packets(clip)


def test_stripping_the_uploads_own_sound_changes_nothing(generator, clip, tmp_path):
    loud = film(tmp_path / "loud.mp4", seconds=2.4, rate="25", sound=True)
    assert any(stream.type == "audio" for stream in av.open(str(loud)).streams)
    silent, sounding = (generator.generate(video, limits=LIMITS).waveform for video in (clip, loud))
    assert np.array_equal(silent, sounding)


def test_the_same_seed_gives_the_same_samples_and_another_seed_another_take(bundle, generator, clip):
    first, again, other = (
        generator.generate(clip, limits=LIMITS, options=Options(seed=seed)).waveform for seed in (7, 7, 8)
    )
    elsewhere = SoundGenerator.from_bundle(bundle).generate(clip, limits=LIMITS, options=Options(seed=7)).waveform
    assert np.array_equal(first, again)
    assert np.array_equal(first, elsewhere)
    assert not np.array_equal(first, other)


def test_a_failed_clip_never_gets_the_previous_clips_sound(generator, clip, tmp_path):
    generator.generate_file(clip, tmp_path / "good.mp4", limits=LIMITS)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(InputError):
        generator.generate_file(bad, tmp_path / "out.mp4", limits=LIMITS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.mp4", "good.mp4"]


def test_an_unknown_kind_is_refused_with_the_known_ones(generator, clip):
    with pytest.raises(InputError, match=r"kazoo.*drum") as caught:
        generator.generate(clip, limits=LIMITS, options=Options(category="kazoo"))
    assert caught.value.code == "unknown_category"


def test_the_chosen_kind_is_used(generator, clip):
    sound = generator.generate(clip, limits=LIMITS, options=Options(category="bell"))
    assert (sound.category, sound.category_confidence) == ("bell", 1.0)
    assert {event.kind for event in sound.events} <= {"bell"}


def test_without_an_event_there_is_room_tone_and_a_note_that_says_so(bundle, clip, tmp_path):
    loaded = load_bundle(bundle)
    deaf = loaded.networks["timing"]
    deaf.config = deaf.config.model_copy(update={"floor": 1.0})  # no probability is ever above it
    save_bundle(tmp_path / "b", loaded.manifest.model_copy(update={"networks": {}}), loaded.networks)
    sound = SoundGenerator.from_bundle(tmp_path / "b").generate(clip, limits=LIMITS)
    assert sound.events == []
    assert sound.notes == [ROOM_TONE_NOTE]


def test_moments_beyond_the_end_are_like_none(generator, clip):
    none, beyond = (
        generator.generate(clip, limits=LIMITS, options=Options(events=moments)) for moments in ((), (Moment(500.0),))
    )
    assert np.array_equal(none.waveform, beyond.waveform)
    assert (beyond.events, beyond.notes) == ([], [ROOM_TONE_NOTE])


def test_an_offset_that_moves_everything_out_says_so(generator, clip):
    sound = generator.generate(clip, limits=LIMITS, options=Options(events=(Moment(2.0),), offset_ms=1000))
    assert (sound.events, sound.notes) == ([], [MOVED_OUT_NOTE])


@pytest.mark.parametrize("offset_ms", [-1000, 1000])
def test_an_offset_longer_than_the_clip_leaves_nothing_but_the_note(generator, tmp_path, offset_ms):
    short = film(tmp_path / "short.mp4", seconds=0.6, rate="25")
    sound = generator.generate(short, limits=LIMITS, options=Options(events=(Moment(0.3),), offset_ms=offset_ms))
    assert len(sound.waveform) == round(sound.duration_s * sound.sample_rate)
    assert (sound.events, sound.notes) == ([], [MOVED_OUT_NOTE])


def test_a_bundle_without_a_regnet_is_refused_before_any_work(bundle, tmp_path):
    loaded = load_bundle(bundle)
    networks = {role: network for role, network in loaded.networks.items() if role != "regnet"}
    save_bundle(tmp_path / "b", loaded.manifest.model_copy(update={"networks": {}}), networks)
    with pytest.raises(ArtifactError, match="no RegNet"):
        SoundGenerator.from_bundle(tmp_path / "b")


def test_progress_is_true_counts_in_order_and_never_falls(generator, clip, tmp_path):
    seen = []
    generator.generate_file(clip, tmp_path / "out.mp4", limits=LIMITS, on_progress=seen.append)
    order = [stage for i, stage in enumerate(p.stage for p in seen) if i == 0 or stage != seen[i - 1].stage]
    assert order == list(Stage)
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)
    assert seen[-1].fraction == pytest.approx(1.0)
    assert max(p.total for p in seen if p.stage is Stage.FRAMES) == 60
    assert all(0 <= p.step <= p.total for p in seen)


def test_work_stops_when_asked_to(generator, clip, tmp_path):
    calls = 0

    def stop_soon() -> bool:
        nonlocal calls
        calls += 1
        return calls > 5

    with pytest.raises(Canceled):
        generator.generate_file(clip, tmp_path / "out.mp4", limits=LIMITS, should_stop=stop_soon)
    assert not list(tmp_path.iterdir())


def test_offset_moves_sound_and_events_together(generator, clip):
    plain, late = (generator.generate(clip, limits=LIMITS, options=Options(offset_ms=ms)) for ms in (0, 200))
    kept = [e.time_s + 0.2 for e in plain.events if e.time_s + 0.2 < plain.duration_s]
    assert [e.time_s for e in late.events] == pytest.approx(kept)
    shift, edge = round(0.2 * 22_050), 2_000  # fades and filters touch the ends
    middle = slice(shift + edge, len(plain.waveform) - edge)
    unshifted = plain.waveform[edge : len(plain.waveform) - shift - edge]
    assert np.abs(late.waveform[middle] - unshifted).max() < 0.05 * np.abs(plain.waveform).max() + 1e-3


def test_the_old_sound_can_stay_underneath(generator, tmp_path):
    loud = film(tmp_path / "loud.mp4", seconds=2, rate="25", sound=True)
    bands = []
    for gain in (0.0, 1.0):
        generator.generate_file(loud, tmp_path / "out.mp4", limits=LIMITS, options=Options(mix_original=gain))
        spectrum = np.abs(np.fft.rfft(read_audio(tmp_path / "out.mp4", 22_050)[:22_050]))
        bands.append(spectrum[435:446].max() / np.median(spectrum))
    assert bands[1] > 20 * bands[0]


@pytest.mark.parametrize("n", [1, 430, 645, 646, 1000, 12_919])
def test_windows_cover_the_clip_and_their_fades_sum_to_one(n):
    window, overlap = 430, 43
    weight = np.zeros(n)
    for start, end in _windows(n, window, overlap):
        assert end - start <= 1.5 * window
        fade = np.ones(end - start)
        if start:
            fade[:overlap] = np.linspace(0, 1, overlap)
        if end < n:
            fade[-overlap:] = np.linspace(1, 0, overlap)
        weight[start:end] += fade
    assert np.allclose(weight, 1)


@pytest.mark.parametrize(("seconds", "late_s"), [(9.5, 0.0), (119.4, 0.184)])
def test_published_weights_do_not_run_ahead_of_a_long_clip(seconds, late_s):
    """Their 86 mel frames a second of picture play in 0.9985 s, and only ten seconds may be left as they were."""
    n_frames = PUBLISHED_CLIP.n_frames(seconds)
    rate, hop = PUBLISHED_CLIP.mel.sample_rate, PUBLISHED_CLIP.mel.hop_length
    sound = np.zeros(PUBLISHED_CLIP.n_mel_frames(n_frames) * hop, np.float32)
    click = PUBLISHED_CLIP.n_mel_frames(n_frames - 3) * hop
    sound[click] = 1
    heard = _in_time(sound, round(n_frames / PUBLISHED_CLIP.video_rate * rate), rate)
    assert np.abs(heard).argmax() / rate - click / rate == pytest.approx(late_s, abs=0.005)


def test_a_banner_gets_its_sound(generator, tmp_path):
    banner = film(tmp_path / "banner.mp4", seconds=1, rate="25", size="1024x64")
    assert len(generator.generate(banner, limits=LIMITS).waveform) == 22_050


def test_a_bundle_without_a_timing_net_tells_the_onsets_of_its_sound(bundle, clip, tmp_path, monkeypatch):
    loaded = load_bundle(bundle)
    others = {role: net for role, net in loaded.networks.items() if role != "timing"}
    save_bundle(tmp_path / "b", loaded.manifest.model_copy(update={"networks": {}}), others)
    generator = SoundGenerator.from_bundle(tmp_path / "b")
    hits = clicks((0.4, 1.1), 2.0, 22_050)  # whatever the vocoder is asked for, it plays these
    monkeypatch.setattr("s2s.pipeline.vocode", lambda mel, *_, **__: np.resize(hits, mel.shape[-1] * 256))
    sound = generator.generate(clip, limits=LIMITS)
    assert [event.time_s for event in sound.events][:2] == pytest.approx([0.4, 1.1], abs=0.05)


MEASURE = """
import resource, sys
from pathlib import Path
from s2s.config import settings
from s2s.pipeline import SoundGenerator
import torch; torch.set_num_threads(1)
generator = SoundGenerator.from_bundle(Path(sys.argv[1]))
generator.generate_file(Path(sys.argv[2]), Path(sys.argv[3]), limits=settings().cli_limits)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_length_beyond_a_little(bundle, tmp_path):
    peaks = []
    for seconds in (4, 40):
        video = film(tmp_path / f"{seconds}.mp4", seconds=seconds, rate="10", size="64x48")
        answer = subprocess.run(
            [sys.executable, "-c", MEASURE, bundle, video, tmp_path / "out.mp4"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(answer.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 150, f"{peaks} MB for 4 s and 40 s"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
