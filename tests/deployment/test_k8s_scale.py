"""The scale plan says what its simulation prints, and simulates the rules that are deployed."""

from __future__ import annotations

import random
import runpy
import sys

from tests.deployment.manifests import named, overlay
from tests.deployment.tools import ROOT, run

SCALE = runpy.run_path(str(ROOT / "references" / "scale.py"), run_name="scale")


def test_the_page_holds_what_the_simulation_prints():
    printed = run(sys.executable, ROOT / "references" / "scale.py").stdout.strip().split("\n\n")
    page = (ROOT / "references" / "scale.md").read_text()
    assert len(printed) == 3
    for part in printed:
        assert part in page, "run references/scale.py and copy its tables to scale.md"


def test_the_simulated_rules_are_the_deployed_ones():
    scaler = named(overlay("gke"), "ScaledObject", "model-server")["spec"]
    behavior = scaler["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert scaler["pollingInterval"] == SCALE["POLL_S"]
    assert scaler["cooldownPeriod"] == SCALE["IDLE_TO_ZERO_S"]
    assert scaler["maxReplicaCount"] == SCALE["Assumptions"]().max_servers
    assert float(scaler["triggers"][0]["metadata"]["threshold"]) == SCALE["TARGET_AGE_S"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == SCALE["CALM_UP_S"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == SCALE["CALM_S"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] > SCALE["Assumptions"]().node_start_s


def test_every_simulated_clip_is_served_and_nobody_works_twice_at_once():
    assumptions = SCALE["Assumptions"](spot_life_h=0.5)
    day = SCALE["simulate"](20_000, assumptions, random.Random(7))
    assert day.done_again > 0, "nodes vanish in this day"
    assert len(day.waits_s) - day.done_again == day.clips
    assert 0 < day.busy_share < 1
    assert day.most_servers <= assumptions.max_servers
