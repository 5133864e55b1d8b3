"""Photographs: whose they are is recorded, a split owns its own, and sets say which they show."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from s2s.errors import ProcessingError
from s2s.synth import photos
from s2s.synth.dataset import make_dataset, write_licences
from s2s.synth.photos import PhotoBank, look, photographs_behind
from s2s.synth.scenes_textures import background


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An album as `fetch` makes it, with small pictures in place of downloaded ones."""
    path = tmp_path_factory.mktemp("photos")
    records = []
    for source in (photos._POLY_HAVEN, photos._ROBOSUITE, photos._SKIMAGE):
        for name, choice in source.items():
            noise = np.random.default_rng(len(records)).integers(0, 255, (32, 64, 3), np.uint8)
            file = f"{choice.split}-{choice.use}-{Path(name).stem}.png"
            cv2.imwrite(str(path / file), noise)
            records.append(
                {
                    "file": file, "name": Path(name).stem, "use": choice.use, "split": choice.split, "package": "@a/b",
                    "version": "1", "original": name, "license": "CC0-1.0", "author": "somebody",
                    "sha256": hashlib.sha256((path / file).read_bytes()).hexdigest(),
                }
            )  # fmt: skip
    (path / "photos.json").write_text(json.dumps(records))
    return path


def test_a_photograph_is_in_one_split_only_and_both_have_every_use(folder):
    train, test = PhotoBank(folder, "train"), PhotoBank(folder, "test")
    assert not set(train.records) & set(test.records)
    assert set(train.records) == set(PhotoBank(folder, "val").records)
    for bank in (train, test):
        for use in ("panorama", "scene", "wood", "metal", "stone", "ground"):
            assert bank.names(use), use


def test_what_a_set_shows_is_credited_clip_by_clip_and_in_its_licences(folder, tmp_path):
    asked = {"bank": None, "short_side_px": 48, "photos": folder}
    solid = make_dataset(tmp_path / "solid", 1, 5, "train", scenes="solid", duration_s=0.5, **asked)
    drawn = make_dataset(tmp_path / "drawn", 5, 5, "train", duration_s=1.0, **asked)
    for records in (solid, drawn):
        shown = [photo for record in records for photo in record.photos]
        assert shown
        assert all(photo["license"] == "CC0-1.0" and photo["author"] for photo in shown)
    write_licences(tmp_path / "solid", solid)
    written = json.loads((tmp_path / "solid" / "licences.json").read_text())["photographs"]
    assert {p["source"] for p in written} == {p["source"] for r in solid for p in r.photos}
    assert all(p["clips"] >= 1 for p in written)


def test_backgrounds_are_photographs_only_where_that_is_asked_for(folder):
    bank = PhotoBank(folder, "train")
    with photographs_behind(bank, 1.0) as used:
        name, image = background(np.random.default_rng(0), "train", 40, 60)
    assert used == [name]
    assert image.shape == (40, 60, 3)
    plain = background(np.random.default_rng(0), "train", 40, 60)
    with photographs_behind(None, 1.0):
        again = background(np.random.default_rng(0), "train", 40, 60)
    assert plain[0] == again[0]
    assert (plain[1] == again[1]).all()


def test_a_look_into_a_panorama_sees_what_lies_in_that_direction():
    panorama = np.zeros((90, 360, 3), np.uint8)
    panorama[:, 90:180] = 200  # from a quarter turn to the right, to a half turn
    panorama[:20] = 50  # the sky
    ahead = look(panorama, np.pi * 3 / 4, 0.0, np.radians(50), 30, 40)
    assert (ahead[10:20] == 200).all()
    assert (look(panorama, 0.1, 0.0, np.radians(9), 30, 40)[10:20] == 0).all()
    assert (look(panorama, 0.1, 1.4, np.radians(20), 30, 40)[:10] == 50).all()


def test_a_folder_without_photographs_says_how_to_fetch_them(tmp_path):
    with pytest.raises(ProcessingError) as caught:
        PhotoBank(tmp_path, "train")
    assert "s2s.synth.photos" in caught.value.hint


def test_every_photograph_has_an_author_and_a_licence_that_lets_weights_ship():
    assert set(photos._SKIMAGE) == set(photos._SKIMAGE_AUTHORS)
    brands = {"can", "cereal", "soda"}
    assert not brands & set(photos._ROBOSUITE)
