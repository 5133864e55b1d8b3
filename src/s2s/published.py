"""Published checkpoints -> our networks. Every dialect that was written is understood; nothing is ever executed.

Sizes come from the tensors' shapes. Only `s2s.bundle.import_published` uses this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s2s.errors import ArtifactError
from s2s.regnet import Discriminator, Generator, RegNetConfig
from s2s.tsn import TsnStream, build_stream
from s2s.tsn.config import PUBLISHED_FLOW, PUBLISHED_RGB
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.wavenet import WaveNet

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

WRAPPERS = ("module.", "netG.", "netD.", "base_model.")  # DataParallel, a whole REGNET model, a TSN
QUANTISATION_MARKS = ("activation_post_process", "weight_fake_quant", "fake_quant_enabled", "observer_enabled",
                      "min_val", "max_val")
QUANTISATION_ENDINGS = (".scale", ".zero_point", ".eps")
PUBLISHED_Z_DIM = 512


def import_generator(path: Path, visual_dim: int | None = None) -> tuple[Generator, list[str]]:
    """`checkpoint_*_netG` -> the generator and what a user of it should know.

    Features and noise enter side by side; where `visual_dim` is not known, the noise is taken to be the published 512.
    """
    state, prepared = plain_lstm(read_state(path, "optimizer_netG", part="netG."))
    with refusing(path, "a REGNET generator"):
        kernel = state["encoder.convolutions.0.0.conv.weight"]
        post = state["postnet.convolutions.0.0.conv.weight"]
        encoder_dim = state["encoder.BiLSTM_proj.weight"].shape[0]
        visual_dim = visual_dim or kernel.shape[1] - PUBLISHED_Z_DIM
        config = RegNetConfig(
            visual_dim=visual_dim, z_dim=kernel.shape[1] - visual_dim, n_mels=post.shape[1],
            encoder_channels=kernel.shape[0], encoder_kernel=kernel.shape[2],
            encoder_layers=count(state, "encoder.convolutions.{}.0.conv.weight"),
            lstm_dim=state["encoder.BiLSTM.weight_hh_l0"].shape[1],
            lstm_layers=count(state, "encoder.BiLSTM.weight_hh_l{}"), encoder_dim=encoder_dim,
            aux_type=auxiliary_type(state), aux_dim=state["decoder.model.0.weight"].shape[0] - encoder_dim,
            decoder_dim=state["decoder.model.0.weight"].shape[1], postnet_dim=post.shape[0],
            postnet_layers=count(state, "postnet.convolutions.{}.0.conv.weight"), postnet_kernel=post.shape[2],
        )
        generator = filled(Generator(config), state)
    note = "The generator was prepared for quantisation: its LSTMs kept their random start through training."
    return generator, [note] if prepared else []


def auxiliary_type(state: State) -> str:
    if "auxiliary.BiLSTM_proj.weight" in state:
        return "lstm_last"
    return "lstm_sample" if "auxiliary.BiLSTM.weight_hh_l0" in state else "conv"


def import_discriminator(path: Path) -> Discriminator:
    """`checkpoint_*_netD` -> the discriminator."""
    state, _ = plain_lstm(read_state(path, "optimizer_netD", part="netD."))
    with refusing(path, "a REGNET discriminator"):
        visual = state["feature_conv.0.weight"]
        config = RegNetConfig(
            visual_dim=visual.shape[0], n_mels=state["mel_conv.weight"].shape[0], disc_feature_dim=visual.shape[1],
            disc_join_dim=state["mel_conv.weight"].shape[1],
            disc_down_dims=tuple(state[f"down_sampling.{i}.weight"].shape[0] for i in (0, 2, 5)),
        )
        return filled(Discriminator(config), state)


def import_wavenet(path: Path, stacks: int = 4) -> WaveNet:
    """r9y9's `.pth`: weight norm under its old names, torch's newer ones, or already removed."""
    state = weight_norm_names(read_state(path, "state_dict"))
    with refusing(path, "a WaveNet"):
        first, conv = state["first_conv.weight_v"], state["conv_layers.0.conv.weight_v"]
        out_channels = state["last_conv_layers.3.bias"].shape[0]
        scalar = first.shape[1] == 1
        n_upsample = count(state, "upsample_conv.{}.weight_v", step=2)
        learned = {
            "upsample_scales": tuple(state[f"upsample_conv.{2 * i}.weight_v"].shape[3] for i in range(n_upsample)),
            "freq_axis_kernel_size": state["upsample_conv.0.weight_v"].shape[2],
        } if n_upsample else {"conditioning": "frame"}
        config = WaveNetConfig(
            layers=count(state, "conv_layers.{}.conv.weight_v"), stacks=stacks, residual_channels=first.shape[0],
            gate_channels=conv.shape[0], skip_channels=state["conv_layers.0.conv1x1_skip.weight_v"].shape[0],
            kernel_size=conv.shape[2], cin_channels=state["conv_layers.0.conv1x1c.weight_v"].shape[1],
            out_channels=out_channels, scalar_input=scalar,
            distribution="logistic_mixture" if scalar else "categorical", **learned,
        )
        return filled(WaveNet(config), state)


def import_stream(path: Path, modality: str) -> TsnStream:
    """`bn_inception-*.pth` or a tsn-pytorch checkpoint -> an RGB or flow stream without heads.

    A flow stream made of a picture network gets the mean of its colour filters for x and y ("cross-modality
    initialisation", published without rescaling).
    """
    state = {name: tensor for name, tensor in read_state(path, "state_dict").items()
             if name.split(".")[0] not in ("new_fc", "fc", "fc_action", "last_linear")}
    state = {name: tensor.squeeze(0) if "_bn." in name and tensor.ndim == 2 else tensor  # Caffe's (1, C)
             for name, tensor in state.items()}
    with refusing(path, "a BN-Inception network"):
        filters = state["conv1_7x7_s2.weight"]
        if modality == "rgb":
            if filters.shape[1] != 3:
                raise ArtifactError(f"{path} reads {filters.shape[1]} channels a picture; an RGB stream reads 3.")
            config = PUBLISHED_RGB
        else:
            if filters.shape[1] == 3:
                state["conv1_7x7_s2.weight"] = filters = filters.mean(dim=1, keepdim=True).repeat(1, 2, 1, 1)
            if filters.shape[1] % 2:
                raise ArtifactError(f"{path} reads {filters.shape[1]} channels; a flow stream reads pairs of x and y.")
            config = PUBLISHED_FLOW.model_copy(update={"frames_per_stack": filters.shape[1] // 2})
        stream = build_stream(config)
        filled(stream.base_model, state)
        return stream


# ---- dialects --------------------------------------------------------------------------------------------------------

def read_state(path: Path, key: str, part: str = "") -> State:
    """The state_dict of a checkpoint: under `key`, under "state_dict", or the file itself; wrappers stripped.

    `part`: where a whole model was saved, its networks start so; the others are left out. Raises ArtifactError.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as exc:
        raise ArtifactError(f"There is no checkpoint {path}.") from exc
    except Exception as exc:  # torch.load raises whatever a damaged file leads to
        if type(exc).__name__ == "UnpicklingError":
            raise ArtifactError(f"{path} is refused: its pickle asks for more than tensors and plain values, or is no "
                                "pickle at all.", hint="Have it saved again as a plain state_dict.") from exc
        raise ArtifactError(f"{path} cannot be read as a torch checkpoint: {type(exc).__name__}.",
                            hint="If it is an archive, unpack it first.") from exc
    if not isinstance(checkpoint, Mapping):
        raise ArtifactError(f"{path} holds a {type(checkpoint).__name__} instead of a state_dict.")
    wrapped = (checkpoint[k] for k in (key, "state_dict") if isinstance(checkpoint.get(k), Mapping))
    state: Any = next(wrapped, checkpoint)
    state = {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if part and any(name.startswith((part, f"module.{part}")) for name in state):
        state = {name: tensor for name, tensor in state.items() if name.startswith((part, f"module.{part}"))}
    return {unwrapped(name): tensor for name, tensor in state.items()}


def unwrapped(name: str) -> str:
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name


def plain_lstm(state: State) -> tuple[State, bool]:
    """A state prepared for quantisation -> the plain one, and whether it was prepared.

    Preparing swaps LSTMs (`layers.0.layer_bw.cell.igates.weight` for `weight_ih_l0_reverse`) and adds observers.
    """
    plain, prepared = {}, False
    for name, tensor in state.items():
        if any(mark in name for mark in QUANTISATION_MARKS) or name.endswith(QUANTISATION_ENDINGS):
            prepared = True
        elif ".layers." in name and ".cell." in name:
            prepared = True
            lstm, rest = name.split(".layers.")
            layer, direction, _, gates, kind = rest.split(".")
            side = {"igates": "ih", "hgates": "hh"}[gates]
            plain[f"{lstm}.{kind}_{side}_l{layer}{'_reverse' if direction == 'layer_bw' else ''}"] = tensor
        else:
            plain[name] = tensor
    return plain, prepared


def weight_norm_names(state: State) -> State:
    """Any spelling of weight norm -> `weight_g` and `weight_v`; a fused weight becomes its own direction and length."""
    named = {}
    for name, tensor in state.items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if name.endswith(".weight"):
            named[f"{name}_g"] = tensor.flatten(1).norm(dim=1).reshape(-1, *[1] * (tensor.ndim - 1))
            name = f"{name}_v"
        named[name] = tensor
    return named


def count(state: State, pattern: str, step: int = 1) -> int:
    """How many of `pattern.format(0)`, `.format(step)`, ... there are."""
    n = 0
    while pattern.format(n * step) in state:
        n += 1
    return n


def filled(network: Network, state: State) -> Network:
    """The network with these weights, none missing and none left over; only batch counters, new in torch, may lack."""
    counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **{name: tensor.float() if tensor.is_floating_point() else tensor
                                            for name, tensor in state.items()}})
    return network.eval()


@contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """Turns "a key or shape is not as it should be" into an ArtifactError about the file."""
    try:
        yield
    except (KeyError, IndexError, RuntimeError, ValueError) as exc:  # pydantic's ValidationError is a ValueError
        detail = f"it lacks {exc}" if isinstance(exc, KeyError) else " ".join(str(exc).split())[:200]
        raise ArtifactError(f"{path} is not {what} that this software knows: {detail}.") from exc
