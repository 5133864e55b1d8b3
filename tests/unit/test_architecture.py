"""Imports point one way, and some things have a single owner. Read by machine from the source."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
COMPONENTS = {"api_service", "model_deployment", "data_collection", "data_preprocessing", "feature_extraction", "train",
              "workflow"}
FILES = sorted(path for path in SRC.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def uses(path: Path, *names: str) -> bool:
    return any(module == name or module.startswith(name + ".") for module in imports(path) for name in names)


def files_of(*parts: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(SRC).parts[: len(parts)] == parts]


def test_there_is_something_to_check():
    assert len(FILES) > 30
    assert uses(SRC / "s2s" / "pipeline.py", "s2s.bundle")


def test_the_shared_package_imports_no_component_and_no_server():
    # s2s.serving starts the components as a user would; it is the one place that knows their names.
    allowed = {SRC / "s2s" / "serving.py"}
    bad = [path for path in files_of("s2s") if path not in allowed and uses(path, *COMPONENTS, "fastapi", "ts", "kfp")]
    assert not bad


LAYERS = (  # each imports from itself and from those before it
    {"spec", "errors"}, {"config", "events"}, {"wire", "materials"},
    {"media", "mel", "flow", "motion", "image", "recognise", "tsn"},
    {"regnet", "wavenet_vocoder", "timing", "conditioning"}, {"published"}, {"bundle", "vocode"}, {"features"},
    {"synth", "data", "training", "evaluation", "pipeline", "picture", "cluster", "rollout", "serving"},
    {"cli", "demo", "bench"},
)


def test_imports_of_the_shared_package_point_one_way():
    layer_of = {unit: number for number, units in enumerate(LAYERS) for unit in units}
    for path in files_of("s2s"):
        unit = path.relative_to(SRC / "s2s").parts[0].removesuffix(".py")
        if unit == "__init__":
            continue
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "s2s" and len(parts) > 1 and parts[1] in layer_of:
                assert layer_of[parts[1]] <= layer_of[unit], f"{path} imports {module}"
        assert unit in layer_of, f"{unit} has no layer"


def test_components_never_import_each_other():
    for component in COMPONENTS:
        others = COMPONENTS - {component}
        assert not [path for path in files_of(component) if uses(path, *others)]


def test_the_gateway_needs_no_torch():
    closed, todo = set(), set(files_of("api_service"))
    while todo:
        path = todo.pop()
        closed.add(path)
        assert not uses(path, "torch", "librosa", "cv2"), path
        for module in imports(path):
            target = SRC / Path(*module.split("."))
            todo |= {p for p in (target.with_suffix(".py"), target / "__init__.py") if p.exists() and p not in closed}


@pytest.mark.parametrize(("name", "owners"), [
    ("subprocess", {"s2s/media/ffmpeg.py", "s2s/serving.py",
                    "s2s/synth/banks.py", "s2s/training/chain.py",  # these two fetch packages before training
                    "s2s/data/stages.py",  # packs the model by the command of the component that owns the format
                    "s2s/bench/pipeline.py"}),  # a child of its own for each measurement
    ("ts", {"model_deployment/handler.py", "model_deployment/stream.py"}),
    # To name the error of a refused file; the last writes the published feature files, which are pickles.
    ("pickle", {"s2s/training/checkpoint.py", "s2s/published.py", "s2s/data/features.py"}),
])
def test_some_modules_have_a_single_owner(name, owners):
    assert {str(path.relative_to(SRC)) for path in FILES if uses(path, name)} <= owners


def test_nothing_is_unpickled():
    for path in FILES:
        source = path.read_text()
        assert "pickle.load" not in source, path
        assert "Unpickler(" not in source, path


def test_the_environment_is_read_in_one_place():
    readers = {str(path.relative_to(SRC)) for path in FILES
               if any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
                      and isinstance(node.value, ast.Name) and node.value.id == "os"
                      for node in ast.walk(ast.parse(path.read_text())))}
    # A supervisor hands the environment on to its children; that is passing, not reading.
    assert readers <= {"s2s/config.py", "s2s/serving.py", "s2s/media/ffmpeg.py"}, readers


def test_torch_files_are_loaded_as_weights_only():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
