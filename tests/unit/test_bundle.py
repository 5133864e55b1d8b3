"""What a bundle promises: whole or refused, whatever was written and whatever happened to it."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import warnings
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tests.published import (
    SMALL_REGNET,
    SMALL_WAVENET,
    caffe_state,
    make_random_published,
    regnet_file,
    write_published_files,
)

import s2s.bundle as bundle_module
from s2s.bundle import BundleManifest, Source, import_published, load_bundle, read_manifest, save_bundle, verify_bundle
from s2s.errors import ArtifactError
from s2s.regnet import Discriminator, Generator, RegNetConfig
from s2s.tsn.bn_inception import BNInception
from s2s.tsn.config import small_flow, small_rgb
from s2s.tsn.tsn import build_stream
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.wavenet import WaveNet, fused_weights

KINDS = ("drum", "hammer")
TINY_REGNET = RegNetConfig(visual_dim=384, z_dim=4, condition_dim=6, encoder_channels=8, lstm_dim=4, encoder_dim=8,
                           aux_dim=2, decoder_dim=8, postnet_dim=8)


def manifest(**changes) -> BundleManifest:
    return BundleManifest(**{
        "name": "tiny", "licence": "Apache-2.0", "categories": KINDS, "default_vocoder": "wavenet",
        "trained_on": (Source(name="procedural clips", licence="Apache-2.0"),), "metrics": {"skill": 0.25}, **changes})


def tiny_networks() -> dict[str, torch.nn.Module]:
    return {"tsn_rgb": build_stream(small_rgb(KINDS)), "tsn_flow": build_stream(small_flow(KINDS)),
            "regnet": Generator(TINY_REGNET), "vocoder": WaveNet(SMALL_WAVENET)}


@pytest.fixture
def tiny(tmp_path) -> Path:
    save_bundle(tmp_path / "tiny", manifest(), tiny_networks())
    return tmp_path / "tiny"


def test_a_bundle_comes_back_as_it_was_saved(tmp_path):
    networks = tiny_networks()
    saved = save_bundle(tmp_path / "b", manifest(), networks)
    bundle = load_bundle(tmp_path / "b")
    assert bundle.manifest == saved == verify_bundle(tmp_path / "b")
    assert bundle.manifest.metrics == {"skill": 0.25}
    assert bundle.manifest.clip.video_rate == Fraction(22_050, 1024)
    assert set(bundle.networks) == set(networks)
    for role, network in networks.items():
        loaded = bundle.networks[role]
        assert loaded.config == network.config
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        assert loaded.state_dict().keys() == network.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), network.state_dict().values(),
                                                     strict=True))


def test_networks_of_the_other_parts_travel_too(tmp_path):
    timing = importlib.import_module("s2s.timing.net")
    parallel = importlib.import_module("s2s.wavenet_vocoder.parallel")
    networks = {"timing": timing.TimingNet(timing.TimingConfig()),
                "vocoder": parallel.ParallelWaveNet(parallel.ParallelWaveNetConfig())}
    save_bundle(tmp_path / "b", manifest(), networks)
    loaded = load_bundle(tmp_path / "b").networks
    assert {role: type(net) for role, net in loaded.items()} == {role: type(net) for role, net in networks.items()}


def test_saving_again_replaces_the_weights_and_leaves_other_files(tiny):
    (tiny / "README.md").write_text("about")
    before = {entry.file for entry in read_manifest(tiny).networks.values()}
    save_bundle(tiny, manifest(name="second"), {**tiny_networks(), "regnet": Generator(TINY_REGNET)})
    after = {entry.file for entry in load_bundle(tiny).manifest.networks.values()}
    assert after != before
    assert {path.name for path in tiny.iterdir()} == after | {"bundle.json", "README.md"}


def test_an_interrupted_save_leaves_the_old_bundle(tiny, monkeypatch):
    before = read_manifest(tiny)

    def no_room(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(bundle_module, "_write_atomically", no_room)
    with pytest.raises(OSError, match="no space"):
        save_bundle(tiny, manifest(name="second"), tiny_networks())
    assert load_bundle(tiny).manifest == before


def edit(folder: Path, change) -> None:
    data = json.loads((folder / "bundle.json").read_text())
    change(data)
    (folder / "bundle.json").write_text(json.dumps(data))


def regnet_file_of(folder: Path) -> Path:
    return folder / read_manifest(folder).networks["regnet"].file


def flip_a_byte(folder: Path) -> None:
    data = bytearray(regnet_file_of(folder).read_bytes())
    data[-1] ^= 1
    regnet_file_of(folder).write_bytes(data)


DAMAGE = {
    "no manifest": (lambda f: (f / "bundle.json").unlink(), "There is no bundle at"),
    "not json": (lambda f: (f / "bundle.json").write_text("{"), "cannot be read"),
    "not an object": (lambda f: (f / "bundle.json").write_text("[]"), "format version None"),
    "newer version": (lambda f: edit(f, lambda d: d.update(format_version=2)), "format version 2"),
    "unknown field": (lambda f: edit(f, lambda d: d.update(colour="red")), "colour"),
    "broken spec": (lambda f: edit(f, lambda d: d["clip"].pop("mel")), "not a valid manifest"),
    "file outside": (lambda f: edit(f, lambda d: d["networks"]["regnet"].update(file="../x.safetensors")), "file"),
    "unknown role": (lambda f: edit(f, lambda d: d["networks"].update(nose=d["networks"]["regnet"])), "nose"),
    "unknown kind": (lambda f: edit(f, lambda d: d["networks"]["vocoder"].update(kind="wavernn")), "wavernn"),
    "wrong size": (lambda f: edit(f, lambda d: d["networks"]["regnet"]["config"].update(decoder_dim=9)), "decoder"),
    "bad size": (lambda f: edit(f, lambda d: d["networks"]["regnet"]["config"].update(n_mels=-1)), "n_mels"),
    "missing file": (lambda f: regnet_file_of(f).unlink(), "lacks regnet-"),
    "cut file": (lambda f: os.truncate(regnet_file_of(f), 1000), "1000 bytes instead of"),
    "flipped bit": (flip_a_byte, "is damaged"),
    "other kinds": (lambda f: edit(f, lambda d: d.update(categories=["dog"])), "contradicts itself"),
    "other mel": (lambda f: edit(f, lambda d: d["clip"]["mel"].update(hop_length=128)), "samples a mel frame"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused_in_one_clear_line(tiny, damage):
    do, message = DAMAGE[damage]
    do(tiny)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_bundle(tiny)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_networks_that_do_not_fit_are_not_saved(tmp_path):
    networks = tiny_networks()
    with pytest.raises(ArtifactError, match="feature channels of both streams"):
        save_bundle(tmp_path / "b", manifest(), {**networks, "regnet": Generator(SMALL_REGNET)})
    with pytest.raises(ArtifactError, match="holds none"):
        save_bundle(tmp_path / "b", manifest(), {"regnet": networks["regnet"]})
    with pytest.raises(ArtifactError, match="cannot be the vocoder"):
        save_bundle(tmp_path / "b", manifest(), {**networks, "vocoder": networks["regnet"]})
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_a_device_that_is_not_there_is_a_clear_error(tiny):
    with pytest.raises(ArtifactError, match="no device"):
        load_bundle(tiny, "toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ArtifactError, match="no CUDA device"):
            load_bundle(tiny, "cuda")


# ---- published checkpoints -------------------------------------------------------------------------------------------

def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def assert_same_weights(network: torch.nn.Module, original: torch.nn.Module) -> None:
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in original.state_dict().items())


def test_published_files_become_a_bundle(tmp_path):
    make_random_published(tmp_path / "b", seed=3)
    bundle = load_bundle(tmp_path / "b")
    assert set(bundle.networks) == {"tsn_rgb", "tsn_flow", "regnet", "discriminator", "vocoder"}
    assert bundle.manifest.feature_rule == "published"
    assert bundle.manifest.clip.n_mel_frames(bundle.manifest.clip.n_frames(10)) == 860
    assert bundle.networks["regnet"].config == SMALL_REGNET.model_copy(update={
        "disc_feature_dim": 1024, "disc_down_dims": (256, 512, 1024)})  # a generator's file says nothing of these
    assert bundle.networks["vocoder"].config == SMALL_WAVENET
    rgb, flow = (bundle.networks[role].base_model.conv1_7x7_s2.weight for role in ("tsn_rgb", "tsn_flow"))
    assert flow.shape == (64, 2, 7, 7)
    assert torch.equal(flow[:, 0], flow[:, 1])
    assert torch.allclose(flow[:, 0], rgb.mean(dim=1))
    assert bundle.networks["regnet"].predict_mel(torch.zeros(1, 5, 2048), torch.zeros(1, 512)).shape == (1, 80, 20)


def import_one(tmp_path: Path, role: str, content: object, **options) -> torch.nn.Module:
    import_published(tmp_path / "b", name="x", **{role: saved(tmp_path, content)}, **options)
    return load_bundle(tmp_path / "b").networks["vocoder" if role == "wavenet" else role]


@pytest.mark.parametrize("prefix", ["", "module.", "netG.", "netG.module."])
def test_a_generator_is_known_under_every_prefix(tmp_path, prefix):
    generator, discriminator = Generator(SMALL_REGNET), Discriminator(SMALL_REGNET)
    state = {prefix + name: tensor for name, tensor in generator.state_dict().items()}
    if prefix.startswith("netG"):
        state |= {"netD." + name: tensor for name, tensor in discriminator.state_dict().items()}
        assert_same_weights(import_one(tmp_path, "discriminator", {"state_dict": state}), discriminator)
        assert_same_weights(import_one(tmp_path, "regnet", {"state_dict": state}), generator)
    assert_same_weights(import_one(tmp_path, "regnet", regnet_file(state, "netG")), generator)


@pytest.mark.parametrize("aux_type", ["lstm_sample", "conv"])
def test_the_other_regularisers_are_recognised(tmp_path, aux_type):
    generator = Generator(SMALL_REGNET.model_copy(update={"aux_type": aux_type}))
    imported = import_one(tmp_path, "regnet", generator.state_dict())
    assert imported.config.aux_type == aux_type
    assert_same_weights(imported, generator)


def test_a_generator_prepared_for_quantisation_is_understood(tmp_path):
    """The real preparation, on the real network: swapped LSTMs and hundreds of observers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

        prepared = Generator(SMALL_REGNET).train()
        prepared.qconfig = get_default_qat_qconfig("fbgemm")
        prepare_qat(prepared, inplace=True)
        assert len(prepared.state_dict()) == 923
        imported = import_one(tmp_path, "regnet", regnet_file(prepared.state_dict(), "netG"))
        assert "kept their random start" in read_manifest(tmp_path / "b").notes
        prepared.apply(torch.ao.quantization.disable_fake_quant)
        x = torch.randn(1, 9, 2560)
        with torch.inference_mode():
            assert torch.allclose(imported.encoder(x), prepared.eval().encoder(x), atol=1e-5)
            mel = torch.rand(1, 80, 36)
            hidden = prepared.auxiliary.BiLSTM(mel.transpose(1, 2))[0][:, 0, 32:]  # the backward direction, at its end
            wanted = prepared.auxiliary.BiLSTM_proj(hidden)
            assert torch.allclose(imported.auxiliary(mel)[:, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("spelling", ["published", "parametrisation", "fused"])
def test_a_wavenet_is_known_in_every_spelling_of_weight_norm(tmp_path, spelling):
    net = WaveNet(SMALL_WAVENET)
    state = net.state_dict()
    if spelling == "parametrisation":
        new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
        state = {".".join(new.get(part, part) for part in name.split(".")): tensor for name, tensor in state.items()}
    elif spelling == "fused":
        state = {name: torch.from_numpy(array) for name, array in fused_weights(net).items()}
    imported = import_one(tmp_path, "wavenet", {"state_dict": state, "global_step": 7})
    for name, array in fused_weights(net).items():
        assert torch.allclose(torch.from_numpy(array), torch.from_numpy(fused_weights(imported)[name]), atol=1e-6)


def test_a_mu_law_wavenet_is_recognised(tmp_path):
    config = WaveNetConfig(layers=4, stacks=2, residual_channels=8, gate_channels=8, skip_channels=8, out_channels=16,
                           distribution="categorical", scalar_input=False)
    imported = import_one(tmp_path, "wavenet", {"state_dict": WaveNet(config).state_dict()}, wavenet_stacks=2)
    assert imported.config == config


def test_temporal_segment_checkpoints_are_known(tmp_path):
    ten = BNInception(10)
    state = {f"module.base_model.{name}": tensor for name, tensor in ten.state_dict().items()}
    state |= {"module.new_fc.weight": torch.zeros(101, 1024), "module.new_fc.bias": torch.zeros(101)}
    checkpoint = {"epoch": 3, "arch": "BNInception", "best_prec1": 87.0, "state_dict": state}
    stream = import_one(tmp_path, "tsn_flow", checkpoint)
    assert stream.config.frames_per_stack == 5
    assert stream.config.stack_start == 0
    assert_same_weights(stream.base_model, ten)
    with pytest.raises(ArtifactError, match="an RGB stream reads 3"):
        import_one(tmp_path, "tsn_rgb", {"state_dict": state})
    with pytest.raises(ArtifactError, match="pairs of x and y"):
        import_one(tmp_path, "tsn_flow", caffe_state(BNInception(15)))


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("role", ["regnet", "wavenet", "tsn_rgb", "discriminator"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, role, zipped):
    victim = tmp_path / "owned"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": Evil(victim)}, tmp_path / "evil",
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtifactError, match="refused: its pickle asks for more"):
        import_published(tmp_path / "b", name="x", **{role: tmp_path / "evil"})
    assert not victim.exists()
    assert not (tmp_path / "b").exists()
    with (tmp_path / "evil").open("wb") as file:
        pickle.dump(Evil(victim), file)
    with pytest.raises(ArtifactError, match="refused"):
        import_published(tmp_path / "b", name="x", **{role: tmp_path / "evil"})
    assert not victim.exists()


@pytest.mark.parametrize(("content", "message"), [
    ({"state_dict": {"a": torch.zeros(1)}}, "is not a REGNET generator"),
    ([1, 2], "holds a list"),
    (Generator(SMALL_REGNET.model_copy(update={"n_mels": 40})).state_dict(), "mel bands of regnet should be 80"),
    ({k: v for k, v in Generator(SMALL_REGNET).state_dict().items() if "decoder.model.9" not in k}, "Missing key"),
])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(ArtifactError, match=message):
        import_one(tmp_path, "regnet", content)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="There is no checkpoint"):
        import_published(tmp_path / "b", name="x", regnet=tmp_path / "nothing")
    files = write_published_files(tmp_path / "files")
    for content in (b"", b"hello", files["discriminator"].read_bytes()[:5000]):
        (tmp_path / "text").write_bytes(content)
        with pytest.raises(ArtifactError, match="text"):
            import_published(tmp_path / "b", name="x", regnet=tmp_path / "text")
    with pytest.raises(ArtifactError, match="Nothing to import"):
        import_published(tmp_path / "b", name="x")
