"""Installs the Debian packages that some tests need, as root with apt; otherwise it says which.

`make test` asks for those of its tests, `make test-deploy` (argument: deploy) for a Docker engine and what it needs.

Chromium drives the browser tests, PostgreSQL holds shared job tables, strace sees which files a gateway opens, nginx
stands before two of them, a registry holds the image of a model server. Where they are missing and cannot be installed,
those tests are skipped with the reason, except in continuous integration (CI=true), where that is a failure.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {  # Debian package -> how to see that it is there
    "chromium": lambda: shutil.which("chromium") or shutil.which("google-chrome"),
    "strace": lambda: shutil.which("strace"),
    "nginx-light": lambda: shutil.which("nginx"),
    "postgresql": lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    "docker-registry": lambda: shutil.which("docker-registry"),
}
GO_SOURCES = Path("/usr/share/gocode/src/github.com")
DEPLOYMENT_PACKAGES = {  # a Docker engine that is started by hand, a registry, base systems, ssh
    "docker.io": lambda: shutil.which("dockerd"),
    "docker-registry": lambda: shutil.which("docker-registry"),
    "iptables": lambda: shutil.which("iptables"),
    "mmdebstrap": lambda: shutil.which("mmdebstrap"),
    "openssh-client": lambda: shutil.which("ssh"),
    "slirp4netns": lambda: shutil.which("slirp4netns"),
    # A Kubernetes node: what it stands on, and what compiles it.
    "conntrack": lambda: shutil.which("conntrack"),
    "dnsmasq-base": lambda: shutil.which("dnsmasq"),
    "dpkg-dev": lambda: shutil.which("dpkg-source"),
    "etcd-server": lambda: shutil.which("etcd"),
    "gcc": lambda: shutil.which("gcc"),
    "golang-github-modern-go-reflect2-dev": lambda: (GO_SOURCES / "modern-go/reflect2").exists(),
    "golang-go": lambda: shutil.which("go"),
    "libc6-dev": lambda: Path("/usr/include/stdio.h").exists(),
    "make": lambda: shutil.which("make"),
    "rsync": lambda: shutil.which("rsync"),
    "socat": lambda: shutil.which("socat"),
}


def main() -> int:
    wanted = DEPLOYMENT_PACKAGES if sys.argv[1:] == ["deploy"] else PACKAGES
    missing = [name for name, present in wanted.items() if not present()]
    if not missing:
        return 0
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing for the tests: {', '.join(missing)}", flush=True)
        # No service may start by itself: the tests start their own on free ports.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        policy = Path("/usr/sbin/policy-rc.d")
        had_policy = policy.exists()
        if not had_policy:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            subprocess.run(["apt-get", "update", "-q"], check=True, env=environment, stdout=subprocess.DEVNULL)
            subprocess.run(command.split(), check=True, env=environment, stdout=subprocess.DEVNULL)
        finally:
            if not had_policy:
                policy.unlink()
        return 0
    print(f"Some tests will be skipped. To run them: sudo {command}", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
