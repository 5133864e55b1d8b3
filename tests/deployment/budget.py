"""How long `make test-deploy` may take in all: S2S_DEPLOY_BUDGET_MINUTES, 45 when nothing is said.

Whoever waits for it (continuous integration has a limit of its own) gets an answer in time: no test starts afterwards,
and one that runs then is stopped a little later. What was left out is skipped with the reason, and listed at the end.
"""

from __future__ import annotations

import os
import time

import pytest

MINUTES = float(os.environ.get("S2S_DEPLOY_BUDGET_MINUTES") or 45)
USED_UP = f"NOT TESTED: the {MINUTES:g} minutes of S2S_DEPLOY_BUDGET_MINUTES are used up"
GRACE_S = 240
_STARTED = "S2S_DEPLOY_STARTED"  # by make, which installs packages first; and for the processes that share the work


def start() -> None:
    os.environ.setdefault(_STARTED, str(time.time()))


def left_s() -> float:
    start()
    return float(os.environ[_STARTED]) + MINUTES * 60 - time.time()


def shorten(item: pytest.Item) -> None:
    """The test's own time limit, or what is left of the budget and a little more."""
    marker = item.get_closest_marker("timeout")
    own_s = marker.args[0] if marker else float(item.config.getini("timeout") or 300)
    item.add_marker(pytest.mark.timeout(min(own_s, max(left_s(), 0) + GRACE_S)), append=False)
