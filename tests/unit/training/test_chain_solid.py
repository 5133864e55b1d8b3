"""The recipe's clips of solid bodies: made where asked for, never rendered twice, their photographs credited."""

from __future__ import annotations

from pathlib import Path

from s2s.synth.dataset import ClipRecord
from s2s.training.chain import RECIPES, _solid_set, _sources_of_photos


def test_a_recipe_renders_its_solid_clips_once_and_none_where_it_wants_none(tmp_path):
    assert _solid_set(RECIPES["tiny"].model_copy(update={"solid_clips": 0}), tmp_path) == []
    recipe = RECIPES["tiny"].model_copy(update={"solid_clips": 1, "clip_s": 0.4, "solid_short_side_px": 48})
    made = _solid_set(recipe, tmp_path)
    written = made[0].video.stat().st_mtime_ns
    assert _solid_set(recipe, tmp_path) == made
    assert made[0].video.stat().st_mtime_ns == written
    assert made[0].split == "train"


def test_photographs_that_weights_learned_from_are_named_with_author_and_licence():
    photo = {"source": "@pmndrs/assets:1.7.0:hdri/city.exr.js", "license": "CC0-1.0", "author": "Poly Haven"}
    records = [ClipRecord(str(n), "train", 1.0, 8, 8, 1, [], {}, Path("v"), None, photos=[photo] * n) for n in range(3)]
    (source,) = _sources_of_photos(records)
    assert (source.name, source.licence) == ("photographs of @pmndrs/assets 1.7.0", "CC0-1.0")
    assert source.note == "hdri/city.exr.js (Poly Haven)"
