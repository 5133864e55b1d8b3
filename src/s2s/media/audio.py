"""Sound in and out: read a file's sound safely, make a waveform fit to be heard, write WAV."""

from __future__ import annotations

import contextlib
import os
import secrets
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from s2s.config import Limits, settings
from s2s.errors import InputError
from s2s.events import ShouldStop, never_stop
from s2s.media import gate
from s2s.media.probe import MediaInfo, child_limits, max_pixels, read_array, run_worker
from s2s.wire import too_large

CEILING = 10 ** (-1 / 20)  # -1 dBFS: room for what a lossy codec adds
HIGH_PASS_HZ = 20.0
LOOK_AHEAD_S = 0.005
FADE_IN_S, FADE_OUT_S = 0.005, 0.020
BLOCK = 1 << 16  # samples worked on at once, so that extra memory does not grow with the length


def read_audio(path: Path | str, sample_rate: int, limits: Limits | None = None, info: MediaInfo | None = None,
               should_stop: ShouldStop = never_stop) -> np.ndarray:
    """The sound of a video or WAV file -> float32 (N,), mono, at `sample_rate` Hz.

    With `info` the samples start with the video and last as long as it; otherwise they start at zero of the file's own
    clock. Decoded in the killable child. Raises InputError (no sound; the codes of `check_container`), Canceled.
    """
    limits = limits or settings().cli_limits
    start = info.start_units * info.time_base if info else Fraction(0)
    longest_s = info.duration_s if info else limits.max_duration_s
    source = gate.open_regular(path)
    try:
        head = os.pread(source, 12, 0)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            demuxer, width, height = "wav", 0, 0
            if os.fstat(source).st_size > limits.max_bytes:
                raise too_large(limits)
        else:
            container = info.container if info else gate.check_descriptor(source, limits)
            demuxer, width, height = container.demuxer, container.width, container.height
        request = {"job": "audio", "demuxer": demuxer, "max_pixels": max_pixels(limits), "sample_rate": sample_rate,
                   "start": str(start), "max_s": longest_s}
        parts = []
        records = run_worker(request, source, child_limits(width, height, 60 + longest_s), should_stop)
        with contextlib.closing(records):
            for kind, header, child in records:
                if kind == b"A":
                    parts.append(read_array(child, (header["n"],), "<f4"))
    finally:
        os.close(source)
    waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return fit_length(waveform, round(info.duration_s * sample_rate)) if info else waveform


def fit_length(waveform: np.ndarray, n_samples: int) -> np.ndarray:
    """float32 (N,) -> a copy, float32 (n_samples,): cut, or followed by silence."""
    fitted = np.zeros(n_samples, np.float32)
    n = min(n_samples, len(waveform))
    fitted[:n] = waveform[:n]
    return fitted


def finish(waveform: np.ndarray, n_samples: int, sample_rate: int, gain_db: float = 0.0) -> np.ndarray:
    """float32 (N,) -> float32 (n_samples,) that is safe to play: no DC, no clipping, no click at either end.

    A high-pass of 20 Hz (second-order Butterworth), the gain, a look-ahead limiter to -1 dBFS, fades of 5 ms and 20 ms.
    """
    sound = fit_length(waveform, n_samples)
    if n_samples == 0:
        return sound
    for start in range(0, n_samples, BLOCK):
        np.nan_to_num(sound[start:start + BLOCK], copy=False, posinf=0.0, neginf=0.0)
    _high_pass(sound, sample_rate)
    sound *= np.float32(10 ** (gain_db / 20))
    limit_peaks(sound, sample_rate)
    rise, fall = (min(n_samples // 2, round(s * sample_rate)) for s in (FADE_IN_S, FADE_OUT_S))
    sound[:rise] *= np.linspace(0, 1, rise, endpoint=False, dtype=np.float32)
    sound[n_samples - fall:] *= np.linspace(0, 1, fall, endpoint=False, dtype=np.float32)[::-1]
    return sound


def mix(waveform: np.ndarray, original: np.ndarray, gain: float, sample_rate: int) -> np.ndarray:
    """float32 (N,) plus `gain` (linear) times float32 (N',) -> float32 (N,), kept under -1 dBFS."""
    sound = fit_length(original, len(waveform))
    sound *= np.float32(gain)
    sound += waveform
    limit_peaks(sound, sample_rate)
    return sound


def limit_peaks(sound: np.ndarray, sample_rate: int) -> None:
    """Turn float32 (N,) down, in place, around peaks above -1 dBFS; quieter sound is left bit for bit as it was.

    The gain at each sample is the mean over +-5 ms of the lowest gain needed within +-5 ms: smooth, and never too high.
    Peaks between samples are looked for half-way between neighbours with a six-point interpolation.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d  # slow to import; not needed to read or to mux

    half = max(1, round(LOOK_AHEAD_S * sample_rate))
    margin = 2 * half + 6
    before = np.zeros(0, np.float32)  # the end of the last block as it was
    for start in range(0, len(sound), BLOCK):
        stop = min(start + BLOCK, len(sound))
        block = np.concatenate([before, sound[start:min(stop + margin, len(sound))]])
        before, lead = block[:len(before) + stop - start][-margin:].copy(), len(before)
        peaks = _peaks(block)
        if peaks.max(initial=0.0) <= CEILING:
            continue
        needed = np.minimum(1.0, CEILING / np.maximum(peaks, CEILING))
        gain = uniform_filter1d(minimum_filter1d(needed, 2 * half + 1, mode="nearest"), 2 * half + 1, mode="nearest")
        sound[start:stop] *= np.minimum(gain, 1.0).astype(np.float32)[lead:lead + stop - start]


def _peaks(block: np.ndarray) -> np.ndarray:
    """float32 (N,) -> float64 (N,): the loudest of each sample and the points half-way to its neighbours."""
    x = np.pad(block.astype(np.float64), 3)
    pairs = [x[2 - k:len(x) - 3 - k] + x[3 + k:len(x) - 2 + k or None] for k in range(3)]
    between = np.abs(150 * pairs[0] - 25 * pairs[1] + 3 * pairs[2]) / 256  # [i]: between samples i - 1 and i
    return np.maximum(np.abs(x[3:-3]), np.maximum(between[:-1], between[1:]))


def _high_pass(sound: np.ndarray, sample_rate: int) -> None:
    """In place. Starts as if the first sample had lasted for ever, so a constant becomes silence at once."""
    from scipy.signal import butter, sosfilt, sosfilt_zi

    sections = butter(2, HIGH_PASS_HZ, "highpass", fs=sample_rate, output="sos")
    state = sosfilt_zi(sections) * float(sound[0])
    for start in range(0, len(sound), BLOCK):
        sound[start:start + BLOCK], state = sosfilt(sections, sound[start:start + BLOCK], zi=state)


def write_wav(path: Path | str, waveform: np.ndarray, sample_rate: int) -> None:
    """float32 (N,), -1 .. 1 -> a 16-bit mono WAV file, written whole or not at all."""
    with whole_or_not_at_all(Path(path)) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        for start in range(0, len(waveform), BLOCK):
            block = np.clip(waveform[start:start + BLOCK], -1.0, 1.0)
            file.writeframes(np.round(block * 32767).astype("<i2").tobytes())


@contextmanager
def whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well and is removed otherwise.

    Raises InputError (bad_output) when the folder cannot be written to.
    """
    # Forty characters are at most 160 bytes, and a name may have 255.
    part = path.parent / f".{path.name[:40]}.{secrets.token_hex(6)}.part"
    try:
        part.touch(exist_ok=False)
    except OSError as exc:
        raise InputError(f"Nothing can be written to {str(path.parent)!r}: {exc.strerror}.", code="bad_output",
                         hint="Choose another folder.") from exc
    try:
        yield part
        try:
            part.replace(path)
        except OSError as exc:
            raise InputError(f"{path.name!r} cannot be written: {exc.strerror}.", code="bad_output",
                             hint="Choose another name.") from exc
    finally:
        part.unlink(missing_ok=True)
