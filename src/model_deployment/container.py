"""The model server as a container's first process:  python -m model_deployment.container

Packs the model by this container's settings, then becomes TorchServe's JVM, so that SIGTERM reaches it. The root may be
read-only: what is written goes to /run/ts (the archive, the management socket) and /tmp, which must allow to execute.
"""

from __future__ import annotations

import os
from pathlib import Path

from model_deployment.build_mar import HERE, build_mar
from s2s.config import process_environment, settings
from s2s.serving import jvm_command, torchserve_sizes

STORE = Path("/run/ts/store")
NO_WORKFLOWS = Path("/srv/ts/empty")  # below the read-only root: nothing can be put there
TEMP = Path("/tmp")


def main() -> None:
    """Does not return. Raises ArtifactError when the bundle or the Java runtime is missing."""
    config = settings()
    build_mar(config, STORE / f"{config.model_name}.mar")
    sizes = {f"TS_{name.upper()}": str(value) for name, value in torchserve_sizes(config).items()}
    places = {"TEMP": TEMP, "TMPDIR": TEMP, "LOG_LOCATION": TEMP, "METRICS_LOCATION": TEMP}
    environment = process_environment(
        **{name: str(path) for name, path in places.items()}, **sizes, TS_LOAD_MODELS=f"{config.model_name}.mar"
    )
    command = jvm_command(HERE / "config.properties", STORE, TEMP, NO_WORKFLOWS)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
