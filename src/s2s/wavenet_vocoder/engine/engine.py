"""The fast sampler of the autoregressive WaveNet: C++ behind ctypes, a drop-in for `sampler.Sampler`.

`make_sampler` is the way in: it gives the engine where it was built and the PyTorch loop, with one notice, where it was
not. How it works: references/wavenet-engine.md.
"""

from __future__ import annotations

import ctypes
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from s2s.errors import ArtifactError, Canceled
from s2s.events import ShouldStop, never_stop
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.mixture import decode_mu_law, encode_mu_law
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import SQRT_HALF, WaveNet, fused_weights

log = logging.getLogger(__name__)

ABI = 3  # of the C interface; must be the number in wavenet_engine.cpp
LOOK_AHEAD = 8  # samples whose past taps are computed at once
LOOK_AHEAD_ALONE = 64  # for a single stream: what is known ahead stays out of the cache for longer
POLL_S = 0.05  # seconds between two looks at `should_stop`
QUIETEST = 16  # times a channel's largest magnitude may be under its tensor's and still count, see `calibrate`
CHUNK_BYTES = 16 << 20  # of conditioning and noise handed over at once
Precision = Literal["fp32", "int8"]
OnSamples = Callable[[int], None]
"""Called with the number of samples made so far in this call, over all streams."""


class Isa(IntEnum):
    """Instruction sets the engine is compiled for."""

    PORTABLE = 0
    AVX2 = 1  # with FMA
    AVX512 = 2  # F, BW, DQ, VL and VNNI


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled engine, or None (said once, with the way to get it)."""
    for path in sorted(Path(__file__).parent.glob("_wavenet_engine*")):
        try:
            lib = ctypes.CDLL(str(path))
            if lib.s2s_wavenet_abi() == ABI:
                return _declare(lib)
            reason = f"{path.name} belongs to another version of this package"
        except (OSError, AttributeError) as exc:
            reason = str(exc)
        break
    else:
        reason = "it was not compiled when the package was installed"
    log.warning(
        "The fast WaveNet engine is not available (%s); PyTorch takes its place, many times slower. Install a C++17 "
        "compiler (Debian: apt-get install g++) and install this package again.",
        reason,
    )
    return None


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    for name, result, arguments in (
        ("available", i32, [i32]),
        ("net", pointer, [i32, pointer, pointer, pointer, pointer]),
        ("net_free", None, [pointer]),
        ("session", pointer, [pointer, i32, pointer, pointer]),
        ("session_free", None, [pointer]),
        ("stop", None, [pointer]),
        ("done", i64, [pointer]),
        ("run", i32, [pointer, pointer, i64, pointer, i64, i64, pointer, pointer, pointer, pointer, pointer]),
        ("churn", i64, [i32, i32, i64]),
    ):
        function = getattr(lib, f"s2s_wavenet_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def available_isas() -> list[Isa]:
    """Instruction sets that this machine and this build can run, slowest first; empty where the engine is missing."""
    lib = library()
    return [isa for isa in Isa if lib.s2s_wavenet_available(isa)] if lib else []


def look_ahead_for(streams: int, config: WaveNetConfig) -> int:
    """The fastest of the look-aheads that were measured; where frames are held it must divide their length."""
    wanted = LOOK_AHEAD_ALONE if streams == 1 else LOOK_AHEAD
    return math.gcd(wanted, config.hop_length)


def int8_pays() -> bool:
    """Whether 8 bits are faster here: VNNI multiplies four times as fast, AVX2 does not."""
    return Isa.AVX512 in available_isas()


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class WaveNetEngine:
    """A WaveNet's weights, packed for one instruction set. Immutable: any number of samplers may share it.

    precision  "int8" needs `scales` from `calibrate`: gates and residual stream go into the products as 8 bits.
    look_ahead samples whose past taps are computed at once; changes the speed and nothing else.
    packed     fp32 only: weights of the layers lie in memory as 24-bit integers on a grid of each row. All fp32 nets
               are rounded to these grids, so this too changes the speed and nothing else. For a single stream.
    Raises ArtifactError where the engine or the instruction set is missing.
    """

    def __init__(
        self,
        net: WaveNet,
        *,
        precision: Precision = "fp32",
        scales: Sequence[float] | None = None,
        isa: Isa | None = None,
        look_ahead: int = LOOK_AHEAD,
        packed: bool = False,
    ):
        isas = available_isas()
        if not isas or (isa is not None and isa not in isas):
            raise ArtifactError(f"The WaveNet engine has no {isa.name if isa else 'build'} here.", hint="See the log.")
        if (precision == "int8") != (scales is not None):
            raise ArtifactError("int8 takes activation scales, fp32 takes none.", hint="calibrate() makes them.")
        self.config, self.precision, self.isa = net.config, precision, max(isas) if isa is None else isa
        self.look_ahead = look_ahead
        self._upsampling = upsampling_kernels(net)
        self._lib = library()
        config = net.config
        self.hop = 1 if config.conditioning == "learned" else config.hop_length  # samples a conditioning column
        categorical = config.distribution == "categorical"
        arrays = [np.ascontiguousarray(array, np.float32) for array in _arrays(net)]
        pointers = (ctypes.c_void_p * len(arrays))(*map(_address, arrays))
        if config.hop_length % look_ahead:
            raise ArtifactError(f"look_ahead must divide the {config.hop_length} samples of a mel frame.")
        ints = np.array(
            [
                config.layers,
                config.residual_channels,
                config.gate_channels // 2,
                config.skip_channels,
                config.out_channels,
                config.cin_channels,
                config.kernel_size,
                self.hop,
                look_ahead,
                config.in_channels,
                0 if categorical else config.n_mixtures,
                config.noise_width,
                packed,
                *config.dilations,
            ],
            np.int32,
        )
        start = 0.0 if config.scalar_input else float(encode_mu_law(torch.zeros(()), config.out_channels))
        floats = np.array([SQRT_HALF, config.log_scale_min, start], np.float32)
        scale_array = None if scales is None else np.asarray(scales, np.float32)
        self._net = self._lib.s2s_wavenet_net(
            self.isa, _address(ints), _address(floats), ctypes.addressof(pointers), _address(scale_array)
        )
        if not self._net:
            raise MemoryError("no memory for the WaveNet engine")

    def __del__(self):
        if getattr(self, "_net", None):
            self._lib.s2s_wavenet_net_free(self._net)


def _arrays(net: WaveNet) -> list[np.ndarray]:
    """What wavenet_engine.cpp takes, in its order. The scaling after each addition is folded in here:
    x' = sqrt(1/2) x + (sqrt(1/2) Wo) z, and the skips of layer l carry the product of all factors that follow."""
    config, w = net.config, fused_weights(net)
    arrays = [w["first_conv.weight"][:, :, 0].T, w["first_conv.bias"]]
    skip_bias = np.zeros(config.skip_channels, np.float64)
    for i in range(config.layers):
        at = f"conv_layers.{i}."
        skip_factor = SQRT_HALF ** (config.layers - max(i, 1))
        skip_bias += skip_factor * w[at + "conv1x1_skip.bias"]
        arrays += [
            w[at + "conv.weight"],
            w[at + "conv1x1c.weight"],
            w[at + "conv.bias"] + w[at + "conv1x1c.bias"],
            w[at + "conv1x1_out.weight"] * SQRT_HALF,
            w[at + "conv1x1_out.bias"] * SQRT_HALF,
            w[at + "conv1x1_skip.weight"] * skip_factor,
        ]
    arrays += [skip_bias, *(w[f"last_conv_layers.{i}.{part}"] for i in (1, 3) for part in ("weight", "bias"))]
    if config.distribution == "categorical":
        arrays.append(decode_mu_law(torch.arange(config.out_channels), config.out_channels).numpy())
    else:
        arrays.append(np.zeros(config.out_channels))
    return arrays


class EngineSampler:
    """Generates B streams side by side, mel by mel, as `Sampler` does: state is kept between calls.

    lengths  samples each stream will make in all (default: no end). A stream that has ended costs nothing more; its
             further samples are 0.
    threads  streams are dealt to that many threads, which share nothing but the weights.
    """

    def __init__(
        self, engine: WaveNetEngine, batch: int = 1, *, lengths: Sequence[int] | None = None, threads: int = 1
    ):
        self.engine, self.config, self.batch = engine, engine.config, batch
        self._lib, self._time = engine._lib, 0
        length = np.asarray(lengths if lengths is not None else [2**62] * batch, np.int64)
        workers = max(1, min(threads, batch))
        longest_first = np.argsort(-length, kind="stable")
        shares = [longest_first[worker::workers] for worker in range(workers)]
        self._order = np.concatenate(shares)  # stream in each of the engine's places
        first = np.cumsum([0, *map(len, shares)], dtype=np.int32)
        sorted_length = np.ascontiguousarray(length[self._order])
        self._session = self._lib.s2s_wavenet_session(engine._net, workers, _address(first), _address(sorted_length))
        if not self._session:
            raise MemoryError("no memory for the WaveNet's state")

    def __del__(self):
        if getattr(self, "_session", None):
            self._lib.s2s_wavenet_session_free(self._session)

    @property
    def done(self) -> int:
        """Samples made since the start, over all streams; may be read while another thread generates."""
        return self._lib.s2s_wavenet_done(self._session)

    def stop(self) -> None:
        """Ends a `generate` that runs in another thread after its current sample; it then raises Canceled."""
        self._lib.s2s_wavenet_stop(self._session)

    def generate(
        self, mel: Tensor, noise: Tensor, *, on_samples: OnSamples | None = None, should_stop: ShouldStop = never_stop
    ) -> Tensor:
        """mel (B, cin, M), noise uniform (B, M * hop_length, noise_width), see `draw_noise`
        -> float32 (B, M * hop_length), the samples after those of the calls before. Raises Canceled."""
        n = mel.shape[2] * self.config.hop_length
        out = np.zeros((self.batch, n), np.float32)
        self._run(mel, n, noise=noise, out=out, on_samples=on_samples, should_stop=should_stop)
        return torch.from_numpy(out)

    def teacher_forced(self, inputs: Tensor, mel: Tensor) -> Tensor:
        """As `WaveNet.forward`, step by step: inputs (B, in_channels, N), mel (B, cin, M) -> (B, out_channels, N)."""
        given = inputs[:, 0] if self.config.scalar_input else inputs.argmax(dim=1)
        logits = np.zeros((self.batch, inputs.shape[2], self.config.out_channels), np.float32)
        self._run(mel, inputs.shape[2], teacher=given.float().numpy(), logits=logits)
        return torch.from_numpy(logits).transpose(1, 2)

    @torch.inference_mode()
    def _run(
        self,
        mel: Tensor,
        n_samples: int,
        *,
        noise: Tensor | None = None,
        teacher: np.ndarray | None = None,
        out: np.ndarray | None = None,
        logits: np.ndarray | None = None,
        seen: np.ndarray | None = None,
        on_samples: OnSamples | None = None,
        should_stop: ShouldStop = never_stop,
    ) -> None:
        """Chunk by chunk, in another thread, so that this one can look after progress and stopping."""
        config, hop = self.config, self.config.hop_length
        if self._time % hop:
            raise ValueError("the call before ended within a mel frame")
        per_frame = 4 * self.batch * hop * (config.noise_width + (config.cin_channels if self.engine.hop == 1 else 0))
        step = hop * max(1, CHUNK_BYTES // per_frame)
        before = self.done
        with ThreadPoolExecutor(1) as pool:
            for start in range(0, n_samples, step):
                end = min(n_samples, start + step)
                columns = upsample(mel[..., start // hop : -(-end // hop)].numpy(), self.engine._upsampling)
                given = [
                    self._placed(columns.transpose(0, 2, 1)),
                    self._placed(None if noise is None else engine_noise(noise[:, start:end], config)),
                    self._placed(None if teacher is None else teacher[:, start:end]),
                ]
                made = [
                    None if array is None else np.zeros((self.batch, end - start, *array.shape[2:]), np.float32)
                    for array in (out, logits)
                ]
                call = pool.submit(
                    self._lib.s2s_wavenet_run,
                    self.engine._net,
                    self._session,
                    end - start,
                    _address(given[0]),
                    given[0].shape[1],
                    self._time // self.engine.hop,
                    *map(_address, (*given[1:], *made, seen)),
                )
                while not _finished(call, POLL_S):
                    if on_samples:
                        on_samples(self.done - before)
                    if should_stop():
                        self.stop()
                if not call.result():
                    raise Canceled("The WaveNet was asked to stop.")
                for whole, chunk in zip((out, logits), made, strict=True):
                    if whole is not None:
                        whole[self._order, start:end] = chunk
                self._time += end - start
                if on_samples:
                    on_samples(self.done - before)

    def _placed(self, array: np.ndarray | None) -> np.ndarray | None:
        """Streams in the engine's order, C contiguous float32."""
        return None if array is None else np.ascontiguousarray(array[self._order], np.float32)


def upsampling_kernels(net: WaveNet) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (freq_kernel, scale) and bias of each transposed convolution; none where frames are held."""
    if net.config.conditioning != "learned":
        return []
    w = fused_weights(net)
    names = [f"upsample_conv.{2 * i}" for i in range(len(net.config.upsample_scales))]
    return [(w[f"{name}.weight"][0, 0], w[f"{name}.bias"]) for name in names]


def upsample(mel: np.ndarray, kernels: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(B, cin, M) -> (B, cin, M * product of scales), as `WaveNet.upsample`.

    By hand because convolution libraries round differently for different shapes: a clip must sound the same whatever
    it shares a batch with and wherever it is cut.
    """
    for weight, bias in kernels:
        taps, scale = weight.shape
        reach = taps // 2
        padded = np.pad(mel, ((0, 0), (reach, reach), (0, 0)))
        rows = mel.shape[1]
        out = np.full((*mel.shape, scale), bias, np.float32)
        for tap in range(taps):  # transposed: tap k carries band f to band f + k - reach
            out += padded[:, 2 * reach - tap : 2 * reach - tap + rows, :, None] * weight[tap]
        mel = np.maximum(out, 0).reshape(*mel.shape[:2], -1)
    return mel


def _finished(call: Future, seconds: float) -> bool:
    return bool(wait([call], timeout=seconds).done)


def engine_noise(uniform: Tensor, config: WaveNetConfig) -> np.ndarray:
    """Uniform numbers (B, N, noise_width) -> Gumbel numbers for the choice and, last for a mixture, a logistic one."""
    gumbel = -torch.log(-torch.log(uniform))
    if config.distribution == "logistic_mixture":
        u = uniform[..., -1]
        gumbel[..., -1] = torch.log(u) - torch.log(1 - u)
    return gumbel.numpy()


def calibrate(net: WaveNet, mel: Tensor, noise: Tensor, *, isa: Isa | None = None) -> list[float]:
    """Activation scales for int8: what the fp32 engine sees while it makes sound of `mel` (B, cin, M) with `noise`.

    One number a channel of each tensor of `int8_widths`. They belong to the weights and travel with them. A channel
    that stays small gets finer steps, but only by the square root of how much smaller it is: what its steps gain, the
    weights that read it lose (Xiao et al., SmoothQuant, 2023, section 4). None gets steps finer than a quarter of the
    coarsest: what was quiet here may be loud in another sound.
    """
    config = net.config
    engine = WaveNetEngine(net, isa=isa, look_ahead=look_ahead_for(mel.shape[0], config))
    sampler = EngineSampler(engine, mel.shape[0])
    seen = np.zeros(sum(config.int8_widths), np.float32)
    sampler._run(mel, mel.shape[2] * config.hop_length, noise=noise, seen=seen)
    reach = []
    for channels in np.split(seen, np.cumsum(config.int8_widths)[:-1]):
        most = max(channels.max(initial=0), 1e-6)
        reach += list(np.sqrt(np.maximum(channels, most / QUIETEST) * most))
    return [float(f"{each / 127:.4g}") for each in reach]


def engine_for(net: WaveNet, streams: int, scales: Sequence[float] | None = None) -> WaveNetEngine:
    """The engine as it is fastest for so many streams side by side; int8 where `scales` are given."""
    return WaveNetEngine(
        net,
        precision="fp32" if scales is None else "int8",
        scales=scales,
        look_ahead=look_ahead_for(streams, net.config),
        packed=scales is None and streams == 1,
    )


def make_sampler(
    net: WaveNet,
    batch: int = 1,
    *,
    scales: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    threads: int = 1,
) -> Sampler | EngineSampler:
    """The engine (int8 where `scales` are given), or the PyTorch loop where there is none or on another device."""
    if library() is None or net.first_conv.bias.device.type != "cpu":
        return Sampler(net, batch)
    return EngineSampler(engine_for(net, batch, scales), batch, lengths=lengths, threads=threads)


def peak_ops(isa: Isa, precision: Precision = "fp32", seconds: float = 0.1) -> float:
    """Operations a second (2 a multiply-add) of this core in registers alone, by CPU time: the limit of any kernel."""
    lib, rounds = library(), 100_000
    lib.s2s_wavenet_churn(isa, precision == "int8", rounds)
    ops, start = 0, time.thread_time()
    while (used := time.thread_time() - start) < seconds:
        ops += lib.s2s_wavenet_churn(isa, precision == "int8", rounds)
    return ops / used
