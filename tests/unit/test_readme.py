"""The README tells the truth about what can be checked by machine."""

import re

import pytest

from s2s.config import REPO_ROOT, Settings

README = (REPO_ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name):
    assert f"`S2S_{name.upper()}`" in README


def test_no_setting_is_documented_that_does_not_exist():
    assert {name.lower() for name in re.findall(r"`S2S_([A-Z_]+)`", README)} <= set(Settings.model_fields)


def test_every_file_that_is_linked_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPO_ROOT / target).exists(), target


def test_every_make_target_that_is_named_exists():
    makefile = (REPO_ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)`?", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_limits_are_those_of_the_settings():
    settings = Settings(_env_file=None)
    for limits in (settings.http_limits, settings.cli_limits):
        assert f"{limits.max_duration_s:g} s" in README
        assert f"{limits.max_long_side_px} px" in README
