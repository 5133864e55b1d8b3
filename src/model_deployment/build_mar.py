"""Packs the handler into model_store/s2s.mar:  python -m model_deployment.build_mar

The archive holds the handler and its configuration with a pointer to the bundle; the code is the installed package,
the weights stay where they are. It is written here and not by torch-model-archiver, which stamps the time into every
archive and deletes $TMPDIR/<model name> on its way: the same inputs give the same bytes, so "changed" is a comparison.

`--whole` puts the bundle inside: an archive to carry away, for a TorchServe with the package installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from s2s import __version__
from s2s.config import REPO_ROOT, Settings, settings
from s2s.errors import ArtifactError

HERE = Path(__file__).resolve().parent
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold


def build_mar(config: Settings, target: Path, *, whole: bool = False) -> bool:
    """Writes `target` unless it already holds the same. Returns whether it was written. whole: with the bundle inside.

    Raises ArtifactError when `config.bundle` is not a bundle.
    """
    model_config = _model_config(config)
    files: dict[str, str | bytes] = {
        "MAR-INF/MANIFEST.json": json.dumps(_manifest(config.model_name), indent=2),
        "handler.py": (HERE / "handler.py").read_text(),
    }
    if whole:
        model_config["handler"]["bundle"] = "bundle"  # in the folder that TorchServe unpacks it to
        files |= {
            f"bundle/{path.name}": path.read_bytes() for path in sorted(config.bundle.iterdir()) if path.is_file()
        }
    archive = _archive(files | {"model-config.yaml": yaml.safe_dump(model_config, sort_keys=False)})
    if target.is_file() and target.read_bytes() == archive:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    partial.write_bytes(archive)
    partial.replace(target)
    return True


def _manifest(model_name: str) -> dict:
    return {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": model_name,
            "modelVersion": __version__,
            "handler": "handler.py",
            "configFile": "model-config.yaml",
        },
    }


def _model_config(config: Settings) -> dict:
    bundle_json = config.bundle.resolve() / "bundle.json"
    if not bundle_json.is_file():
        raise ArtifactError(f"{config.bundle} is not a bundle: no bundle.json in it.", hint="Choose one with --bundle.")
    return yaml.safe_load((HERE / "model-config.yaml").read_text()) | {
        "minWorkers": config.model_workers,
        "maxWorkers": config.model_workers,
        "responseTimeout": config.response_timeout_s,
        "deviceType": "gpu" if config.device.startswith("cuda") else "cpu",
        "handler": {
            "bundle": str(bundle_json.parent),
            "bundle_sha256": hashlib.sha256(bundle_json.read_bytes()).hexdigest(),
        },
    }


def _archive(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack the handler and a pointer to the bundle into a .mar file.")
    parser.add_argument("--out", type=Path, default=REPO_ROOT / "model_store" / "s2s.mar")
    parser.add_argument("--bundle", type=Path, default=settings().bundle)
    parser.add_argument("--whole", action="store_true", help="with the bundle inside, instead of a pointer to it")
    args = parser.parse_args()
    written = build_mar(settings().model_copy(update={"bundle": args.bundle}), args.out, whole=args.whole)
    print(f"{args.out}: {'written' if written else 'already up to date'}")


if __name__ == "__main__":
    main()
