"""Our own images, built from the checkout's Dockerfiles on the bases of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.deployment import bases
from tests.deployment.engine import Engine
from tests.deployment.tools import ROOT

REVISION = "0" * 39 + "1"  # what a label should repeat; a test's build has no commit of its own


@dataclass(frozen=True)
class Recipe:
    """`argument` of the Dockerfile that names the base, and which of our local images it gets."""

    dockerfile: str
    argument: str
    base: str


RECIPES = {
    "torch-base": Recipe("deployment/torch-base/Dockerfile", "BASE_IMAGE", "torch-python"),
    "api-service": Recipe("src/api_service/Dockerfile", "BASE_IMAGE", "python"),
    "frontend": Recipe("src/frontend_simple/Dockerfile", "BASE_IMAGE", "nginx"),
    "model-server": Recipe("src/model_deployment/Dockerfile", "TORCH_BASE", "torch-base"),
    "deployment": Recipe("deployment/Dockerfile", "BASE_IMAGE", "python"),
}


def recipes() -> dict[str, Recipe]:
    """RECIPES, and every pipeline stage that has a Dockerfile: a new one is built without a word here."""
    known = {recipe.dockerfile for recipe in RECIPES.values()}
    found = dict(RECIPES)
    for path in sorted(ROOT.glob("src/*/Dockerfile")):
        dockerfile = str(path.relative_to(ROOT))
        if dockerfile not in known:
            on_torch = re.search(r"^ARG TORCH_BASE", path.read_text(), re.MULTILINE)
            recipe = Recipe(dockerfile, *(("TORCH_BASE", "torch-base") if on_torch else ("BASE_IMAGE", "python")))
            found[path.parent.name.replace("_", "-")] = recipe
    return found


def base_of(engine: Engine, name: str) -> str:
    """The image that `name` is built on."""
    base = recipes()[name].base
    return build(engine, base) if base in RECIPES else bases.base(engine, base)


_built: dict[tuple[str, str], str] = {}


def build(engine: Engine, name: str) -> str:
    """`local/<name>:test`, built once in a process from the files as they are now."""
    key = (engine.socket, name)
    if key not in _built:
        recipe = recipes()[name]
        tag = f"local/{name}:test"
        arguments = [f"--build-arg={recipe.argument}={base_of(engine, name)}", f"--build-arg=REVISION={REVISION}"]
        engine.docker("build", *arguments, "-t", tag, "-f", str(ROOT / recipe.dockerfile), str(ROOT))
        _built[key] = tag
    return _built[key]


def size_over_base(engine: Engine, name: str) -> int:
    """Bytes of the image that its base does not have."""

    def size(image: str) -> int:
        return int(engine.docker("image", "inspect", "-f", "{{.Size}}", image))

    return size(build(engine, name)) - size(base_of(engine, name))
