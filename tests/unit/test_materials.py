"""What was fetched beforehand is used, and nothing is fetched then."""

import functools
import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from s2s import materials
from s2s.config import Settings
from s2s.errors import ArtifactError, ProcessingError
from s2s.evaluation import yamnet
from s2s.synth import banks, photos


def no_client(*_, **__):
    raise AssertionError("a package client was called")


def test_materials_take_the_place_of_downloads(tmp_path: Path, monkeypatch):
    kept = tmp_path / "kept"
    (kept / "recorded").mkdir(parents=True)
    (kept / "recorded" / "bank.json").write_text(json.dumps([{"file": "a.flac"}]))
    (kept / "recorded" / "a.flac").write_bytes(b"sound")
    (kept / "photos").mkdir()
    (kept / "photos" / "photos.json").write_text(json.dumps([{"file": "a.png"}, {"file": "b.png"}]))
    (kept / "yamnet.tflite").write_bytes(b"ear")
    monkeypatch.setattr(materials, "settings", lambda: Settings(materials=kept))
    monkeypatch.setattr(yamnet, "SHA256", hashlib.sha256(b"ear").hexdigest())
    for module in (banks, yamnet):
        monkeypatch.setattr(module, "run_client", no_client)
    for source in ("_poly_haven", "_robosuite", "_skimage"):
        monkeypatch.setattr(photos, source, no_client)
    assert photos.fetch(tmp_path / "run" / "photos") == 2
    assert banks.fetch(tmp_path / "run" / "recorded") == 1
    assert (tmp_path / "run" / "recorded" / "a.flac").read_bytes() == b"sound"
    assert yamnet.fetch_yamnet(tmp_path / "run").read_bytes() == b"ear"


def test_materials_of_which_the_copy_was_cut_off_are_copied_again(tmp_path: Path, monkeypatch):
    kept, target = tmp_path / "kept", tmp_path / "run" / "recorded"
    (kept / "recorded").mkdir(parents=True)
    for name in ("bank.json", "a.flac", "b.flac"):
        (kept / "recorded" / name).write_bytes(name.encode())
    monkeypatch.setattr(materials, "settings", lambda: Settings(materials=kept))

    def cut_off(source, into):
        into.mkdir(parents=True)
        (into / "bank.json").write_bytes(b"bank.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(materials.shutil, "copytree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            materials.take("recorded", target)
    assert not (target / "bank.json").exists(), "nothing says that the sounds are there"
    assert materials.take("recorded", target)
    assert {path.name for path in target.iterdir()} == {"bank.json", "a.flac", "b.flac"}


def test_another_ear_among_the_materials_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "yamnet.tflite").write_bytes(b"another ear")
    monkeypatch.setattr(materials, "settings", lambda: Settings(materials=tmp_path))
    with pytest.raises(ArtifactError, match="is not the"):
        yamnet.fetch_yamnet(tmp_path / "run")


def test_without_materials_the_clients_are_called(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(materials, "settings", lambda: Settings(materials=tmp_path / "none"))
    monkeypatch.setattr(banks, "run_client", no_client)
    with pytest.raises(AssertionError, match="client"):
        banks.fetch(tmp_path / "run")


def test_a_package_that_is_not_what_it_was_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "name" / "-").mkdir(parents=True)
    (tmp_path / "name" / "-" / "name-1.tgz").write_bytes(b"changed")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(banks, "NPM", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ProcessingError, match="not the file"):
            banks.npm_package("name", "1", hashlib.sha512(b"as it was").hexdigest())
        with pytest.raises(ProcessingError, match="could not be fetched"):
            banks.npm_package("other", "1", "")
        server.shutdown()
