"""What the overlays render to, as Python objects."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from tests.deployment.tools import ROOT, run, tool

K8S = ROOT / "deployment" / "k8s"
OVERLAYS = ("local", "gke")
WORKLOADS = ("Deployment", "StatefulSet", "Job")


def render(folder: Path) -> str:
    answer = run(tool("kubectl"), "kustomize", folder)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@cache
def overlay(name: str) -> tuple[dict, ...]:
    return tuple(yaml.safe_load_all(render(K8S / "overlays" / name)))


def of_kind(objects, *kinds: str) -> list[dict]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects, kind: str, name: str) -> dict:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pod_of(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


def containers_of(workload: dict) -> list[dict]:
    pod = pod_of(workload)
    return [*pod.get("initContainers", []), *pod["containers"]]


def selects(selector: dict, labels: dict) -> bool:
    """Kubernetes' label selector: matchLabels and the operators In, NotIn, Exists."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        holds = {
            "In": value in rule.get("values", []),
            "NotIn": value not in rule.get("values", []),
            "Exists": value is not None,
        }[rule["operator"]]
        if not holds:
            return False
    return True
