"""No linter of the deployment layer finds anything."""

from __future__ import annotations

import pytest
from tests.deployment.lint import LINTERS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LINTERS)
def test_the_linter_finds_nothing(name):
    assert LINTERS[name]() == ""
