"""Docker Compose as a plugin of the client, from Debian trixie's package: bookworm's own is the old Python one."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.deployment.engine import Engine

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCE = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian trixie main\n"


def compose(engine: Engine) -> None:
    """Makes `docker compose` work with this engine's client. The machine's own apt knows nothing of it."""
    plugin = engine.config_dir / "cli-plugins" / "docker-compose"
    if plugin.exists():
        return
    plugin.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        (home / "sources.list").write_text(SOURCE)
        for name in ("lists/partial", "archives/partial"):
            (home / name).mkdir(parents=True)
        apt = ["apt-get", "-q", f"-oDir::Etc::sourcelist={home}/sources.list", "-oDir::Etc::sourceparts=-"]
        apt += [f"-oDir::State::lists={home}/lists", f"-oDir::Cache={home}", "-oAPT::Sandbox::User=root"]
        for command in ([*apt, "update"], [*apt, "download", "docker-compose"]):
            subprocess.run(command, cwd=home, check=True, capture_output=True, timeout=600)
        (package,) = home.glob("docker-compose_*.deb")
        subprocess.run(["dpkg", "-x", package, home / "unpacked"], check=True)
        found = home / "unpacked/usr/libexec/docker/cli-plugins/docker-compose"
        plugin.with_suffix(".part").write_bytes(found.read_bytes())
    plugin.with_suffix(".part").chmod(0o755)
    plugin.with_suffix(".part").rename(plugin)
