"""Promises of what looks after the machine itself: whatever a run leaves is seen, and so is the end of the budget."""

from __future__ import annotations

import subprocess
import tempfile
import time

import pytest
from tests.deployment import budget, machine_state
from tests.deployment.engine import PREFIX


def test_a_process_and_a_folder_that_are_left_behind_are_seen():
    before = machine_state.look()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}0-") as folder:
        process = subprocess.Popen(["tail", "-f", "/dev/null", "--pid", "1", folder], stderr=subprocess.DEVNULL)
        try:
            said = machine_state.changes(before)
        finally:
            process.kill()
            process.wait()
    assert f"temporary folder left behind: {folder}" in said
    assert any(line.startswith(f"process left behind: {process.pid} ") for line in said)


@pytest.mark.parametrize("kind", ["packet filter", "interface", "route", "mount", "kernel setting"])
def test_what_is_new_and_what_is_gone_are_both_seen(kind):
    before = machine_state.look()
    if kind == "kernel setting":
        name, value = next(iter(before[kind])).split(" = ", 1)
        before[kind] = before[kind] - {f"{name} = {value}"} | {f"{name} = not {value}"}
        expected = [f"{kind} left behind: {name} = {value}", f"{kind} gone: {name} = not {value}"]
    else:
        before[kind] = before[kind] | {"something"}
        expected = [f"{kind} gone: something"]
    said = machine_state.changes(before)
    assert all(line in said for line in expected)


def test_nothing_starts_after_the_budget_and_a_test_at_its_end_is_cut_short(monkeypatch, request):
    monkeypatch.setenv("S2S_DEPLOY_STARTED", str(time.time() - budget.MINUTES * 60 - 1))
    assert budget.left_s() < 0
    budget.shorten(request.node)
    assert request.node.get_closest_marker("timeout").args[0] == budget.GRACE_S
