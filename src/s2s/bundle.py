"""A bundle: a folder with everything a model is. `bundle.json` says what it holds; weights are safetensors.

    bundle.json                       BundleManifest: networks and their sizes, spec, categories, licence, metrics
    <role>-<8 hex of sha256>.safetensors   one a network

File names carry their content's hash, and bundle.json is replaced last, in one step: whenever a save is interrupted,
the folder holds either the old bundle or the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from s2s.errors import ArtifactError
from s2s.spec import PUBLISHED_CLIP, ClipSpec
from s2s.wavenet_vocoder.config import Int8

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST_NAME = "bundle.json"


class Kind(NamedTuple):
    """Where a kind of network lives: imported when a bundle holds one, not before."""

    module: str
    config_class: str
    network_class: str  # called with the config; keeps it as `.config`


KINDS = {
    "timing": Kind("s2s.timing.net", "TimingConfig", "TimingNet"),
    "tsn": Kind("s2s.tsn", "TsnStreamConfig", "TsnStream"),
    "recogniser": Kind("s2s.recognise", "RecogniserConfig", "Recogniser"),
    "regnet": Kind("s2s.regnet", "RegNetConfig", "Generator"),
    "discriminator": Kind("s2s.regnet", "RegNetConfig", "Discriminator"),
    "wavenet": Kind("s2s.wavenet_vocoder.wavenet", "WaveNetConfig", "WaveNet"),
    "parallel_wavenet": Kind("s2s.wavenet_vocoder.parallel", "ParallelWaveNetConfig", "ParallelWaveNet"),
}
KINDS_OF_ROLE = {
    "timing": ("timing",), "tsn_rgb": ("tsn",), "tsn_flow": ("tsn",), "recogniser": ("recogniser",),
    "regnet": ("regnet",), "vocoder": ("wavenet", "parallel_wavenet"), "discriminator": ("discriminator",),
}


class NetworkEntry(BaseModel):
    """One network of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    config: dict[str, Any] = Field(description="the kind's config class, as JSON")
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors$", description="inside the bundle's folder")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    int8: Int8 | None = Field(None, description="of an autoregressive WaveNet: `s2s bundle calibrate`")


class Source(BaseModel):
    """Something a bundle was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    licence: str
    note: str = ""


def licence_with(licence: str, of_clips: Iterable[str]) -> str:
    """The licence of a bundle that was under `licence` and has learned from clips under these."""
    others = sorted(set(of_clips) - {licence})
    return f"{licence}; clips it learned from: {', '.join(others)}" if others else licence


ClipSpecField = Annotated[
    InstanceOf[ClipSpec],
    BeforeValidator(lambda value: ClipSpec.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(ClipSpec.to_dict),
]


class BundleManifest(BaseModel):
    """What a bundle says about itself. `networks` is filled in by `save_bundle`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(min_length=1)
    clip: ClipSpecField = ClipSpec()
    feature_rule: Literal["native", "published"] = Field(
        "native", description="how frames become feature rows; published: s2s.flow's, one frame ahead")
    published_flow: Literal["dis", "tvl1"] = Field(
        "dis", description="flow of the published rule; dis stands in for tvl1, which takes 4 s a frame")
    categories: tuple[str, ...] = Field((), description="kinds of sound that the bundle tells apart, in network order")
    default_vocoder: Literal["wavenet", "griffinlim"] = "griffinlim"
    licence: str
    trained_on: tuple[Source, ...] = ()
    metrics: dict[str, Any] = {}
    notes: str = ""
    networks: dict[str, NetworkEntry] = {}


@dataclass(frozen=True)
class Bundle:
    """Loaded networks, in eval mode, on one device."""

    manifest: BundleManifest
    path: Path
    device: torch.device
    networks: Mapping[str, nn.Module]  # by role, see KINDS_OF_ROLE; a role that the bundle does not fill is absent


def save_bundle(path: Path | str, manifest: BundleManifest, networks: Mapping[str, nn.Module]) -> BundleManifest:
    """Writes networks by role (see KINDS_OF_ROLE) into the folder `path`, replacing the bundle that is there, and
    returns the manifest with its `networks`.

    Other files in the folder stay. Raises ArtifactError when the networks do not fit one another.
    """
    _check_facts(manifest, {role: network.config for role, network in networks.items()})
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    replaced = _files_of(folder)
    entries = {role: _save_network(folder, role, network) for role, network in networks.items()}
    manifest = manifest.model_copy(update={"networks": entries})
    _write_atomically(folder / MANIFEST_NAME, (manifest.model_dump_json(indent=2) + "\n").encode())
    for name in replaced - {entry.file for entry in entries.values()}:
        (folder / name).unlink(missing_ok=True)
    return manifest


def read_manifest(path: Path | str) -> BundleManifest:
    """Raises ArtifactError when the folder is no bundle, or one of another version."""
    file = Path(path) / MANIFEST_NAME
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError as exc:
        raise ArtifactError(f"There is no bundle at {path}.",
                            hint=f"A bundle is a folder with a {MANIFEST_NAME}.") from exc
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{file} cannot be read: {exc}.", hint="Get the bundle again.") from exc
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(f"The bundle at {path} has format version {version}; this software reads {FORMAT_VERSION}.",
                            hint="Use the software that fits it, or a newer bundle.")
    try:
        return BundleManifest.model_validate(data)
    except (ValidationError, KeyError, TypeError) as exc:
        raise ArtifactError(f"{file} is not a valid manifest: {_first_line(exc)}.",
                            hint="Get the bundle again.") from exc


def verify_bundle(path: Path | str) -> BundleManifest:
    """Checks every file against its size and sha256, without loading a network. Raises ArtifactError."""
    manifest = read_manifest(path)
    for role, entry in manifest.networks.items():
        file = Path(path) / entry.file
        if not file.is_file():
            raise ArtifactError(f"The bundle at {path} lacks {entry.file} ({role}).", hint="Get the bundle again.")
        if file.stat().st_size != entry.bytes:
            raise ArtifactError(f"{file} has {file.stat().st_size} bytes instead of {entry.bytes}: it was cut off or "
                                "changed.", hint="Get the bundle again; in a git checkout, check Git LFS.")
        if _sha256(file) != entry.sha256:
            raise ArtifactError(f"{file} is damaged: its sha256 is not the manifest's.", hint="Get the bundle again.")
    return manifest


def load_bundle(path: Path | str, device: torch.device | str = "cpu") -> Bundle:
    """Verifies the files, then builds and fills every network. Raises ArtifactError with one clear line."""
    device = _device(device)
    manifest = verify_bundle(path)
    networks = {role: _load_network(Path(path), role, entry) for role, entry in manifest.networks.items()}
    _check_facts(manifest, {role: network.config for role, network in networks.items()})
    ready = {role: network.to(device).eval().requires_grad_(False) for role, network in networks.items()}
    return Bundle(manifest, Path(path), device, MappingProxyType(ready))


def save_int8(path: Path | str, int8: Int8) -> None:
    """Puts what `s2s.evaluation.int8` found about the vocoder that is in the bundle now into its manifest."""
    manifest = read_manifest(path)
    networks = {**manifest.networks, "vocoder": manifest.networks["vocoder"].model_copy(update={"int8": int8})}
    manifest = manifest.model_copy(update={"networks": networks})
    _write_atomically(Path(path) / MANIFEST_NAME, (manifest.model_dump_json(indent=2) + "\n").encode())


def import_published(out: Path | str, *, name: str, regnet: Path | None = None, discriminator: Path | None = None,
                     wavenet: Path | None = None, tsn_rgb: Path | None = None, tsn_flow: Path | None = None,
                     categories: tuple[str, ...] = (), wavenet_stacks: int = 4,
                     licence: str = "unknown: ask the authors of the weights",
                     trained_on: tuple[Source, ...] = (), tvl1: bool = False) -> BundleManifest:
    """Published checkpoints (REGNET netG and netD, r9y9 WaveNet, BN-Inception or tsn-pytorch) -> a bundle at `out`.

    Sizes are read from the tensors' shapes; `wavenet_stacks` is not in them. tvl1: flow as published, see
    `s2s.flow.pair_flow`. Raises ArtifactError for a file that is not such a checkpoint, or whose pickle asks for more
    than tensors and plain values.
    """
    from s2s import published  # only this needs it

    notes = ["Imported from published checkpoints."]
    networks: dict[str, nn.Module] = {}
    if tsn_rgb:
        networks["tsn_rgb"] = published.import_stream(tsn_rgb, "rgb")
    if tsn_flow:
        networks["tsn_flow"] = published.import_stream(tsn_flow, "flow")
    if discriminator:
        networks["discriminator"] = published.import_discriminator(discriminator)
    if regnet:
        streams = [networks[role] for role in ("tsn_rgb", "tsn_flow") if role in networks]
        visual_dim = sum(stream.config.feature_dim for stream in streams) if len(streams) == 2 else None
        networks["regnet"], regnet_notes = published.import_generator(regnet, visual_dim)
        notes += regnet_notes
    if wavenet:
        networks["vocoder"] = published.import_wavenet(wavenet, wavenet_stacks)
    if not networks:
        raise ArtifactError("Nothing to import.", hint="Name at least one checkpoint.")
    manifest = BundleManifest(
        name=name, clip=PUBLISHED_CLIP, feature_rule="published", published_flow="tvl1" if tvl1 else "dis",
        categories=categories, licence=licence,
        default_vocoder="wavenet" if wavenet else "griffinlim", trained_on=trained_on, notes=" ".join(notes),
    )
    return save_bundle(out, manifest, networks)


# ---- networks and their files ----------------------------------------------------------------------------------------

def _kind_of(role: str, network: nn.Module) -> str:
    if role not in KINDS_OF_ROLE:
        raise ArtifactError(f"A bundle has no role {role!r}.", hint=f"Roles are {', '.join(KINDS_OF_ROLE)}.")
    for kind in KINDS_OF_ROLE[role]:
        if type(network).__name__ == KINDS[kind].network_class:
            return kind
    raise ArtifactError(f"A {type(network).__name__} cannot be the {role} of a bundle.")


def _save_network(folder: Path, role: str, network: nn.Module) -> NetworkEntry:
    kind = _kind_of(role, network)
    config = TypeAdapter(type(network.config)).dump_python(network.config, mode="json")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        file = Path(scratch) / "weights"
        save_file(tensors, file)
        digest = _sha256(file)
        entry = NetworkEntry(kind=kind, config=config, file=f"{role}-{digest[:8]}.safetensors",
                             bytes=file.stat().st_size, sha256=digest, int8=getattr(network, "int8", None))
        file.chmod(0o644)
        _sync(file)
        os.replace(file, folder / entry.file)
    return entry


def _load_network(folder: Path, role: str, entry: NetworkEntry) -> nn.Module:
    if entry.kind not in KINDS_OF_ROLE.get(role, ()):
        raise ArtifactError(f"The bundle's {role} is a {entry.kind!r}, which this software does not know.",
                            hint="Use the software that fits the bundle.")
    kind = KINDS[entry.kind]
    try:
        module = import_module(kind.module)
        config = TypeAdapter(getattr(module, kind.config_class)).validate_python(entry.config)
        network = getattr(module, kind.network_class)(config)
        network.load_state_dict(load_file(folder / entry.file))
        if entry.int8 is not None:
            if entry.kind == "wavenet" and len(entry.int8.scales) == sum(config.int8_widths):
                network.int8 = entry.int8
            else:  # its weights are whole all the same
                log.warning("The %s's int8 scales in %s are not those of its network, so it plays in 32 bits. "
                            "`s2s bundle calibrate` makes new ones.", role, folder / MANIFEST_NAME)
    except (ImportError, AttributeError) as exc:
        raise ArtifactError(f"This install cannot build the bundle's {role}: {exc}.") from exc
    except ValidationError as exc:
        raise ArtifactError(f"The {role}'s sizes in {MANIFEST_NAME} are not valid: {_first_line(exc)}.") from exc
    except (RuntimeError, SafetensorError) as exc:
        raise ArtifactError(f"{entry.file} does not fit the {role} that {MANIFEST_NAME} describes: "
                            f"{_first_line(exc)}.", hint="Get the bundle again.") from exc
    return network


def _check_facts(manifest: BundleManifest, configs: Mapping[str, Any]) -> None:
    """Facts that two networks, or a network and the spec, both know. Raises ArtifactError where they disagree."""
    clip, facts = manifest.clip, []
    if regnet := configs.get("regnet"):
        facts += [("mel bands of regnet", regnet.n_mels, clip.mel.n_mels), ("mel frames a feature frame",
                                                                             clip.mel_per_frame, 4)]
        streams = [configs[role] for role in ("tsn_rgb", "tsn_flow") if role in configs]
        if len(streams) == 2:
            facts.append(("feature channels of both streams", sum(s.feature_dim for s in streams), regnet.visual_dim))
        if (discriminator := configs.get("discriminator")) is not None:
            facts.append(("visual channels of the discriminator", discriminator.visual_dim, regnet.visual_dim))
    for role in ("tsn_rgb", "tsn_flow", "recogniser"):
        if role in configs and configs[role].class_names:
            facts.append((f"classes of {role}", configs[role].class_names, manifest.categories))
    for role in ("tsn_rgb", "tsn_flow"):
        if role in configs:
            facts.append((f"modality of {role}", configs[role].modality, role.removeprefix("tsn_")))
    if vocoder := configs.get("vocoder"):
        for label, attribute, wanted in (("mel bands", "cin_channels", clip.mel.n_mels),
                                         ("samples a mel frame", "hop_length", clip.mel.hop_length)):
            facts.append((f"{label} of the vocoder", getattr(vocoder, attribute, wanted), wanted))
    elif manifest.default_vocoder == "wavenet":
        raise ArtifactError("The bundle's default vocoder is wavenet, but it holds none.")
    for label, found, wanted in facts:
        if found != wanted:
            raise ArtifactError(f"The bundle contradicts itself: {label} should be {wanted}, not {found}.")


# ---- small tools -----------------------------------------------------------------------------------------------------

def _device(device: torch.device | str) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as exc:
        raise ArtifactError(f"There is no device {device!r}.", hint="Use cpu or cuda.") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArtifactError("This machine has no CUDA device that torch can use.", hint="Use the device cpu.")
    return device


def _files_of(folder: Path) -> set[str]:
    """Weight files of the bundle that is in the folder now, if there is one."""
    try:
        return {entry.file for entry in read_manifest(folder).networks.values()}
    except ArtifactError:
        return set()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_atomically(file: Path, data: bytes) -> None:
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.write_bytes(data)
    _sync(scratch)
    os.replace(scratch, file)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _first_line(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        first = exc.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") or type(exc).__name__
