"""A Kubernetes of our own: the five programs of a node, compiled once from Debian's source package, kept in the cache.

No registry, no download of binaries: Debian's archive is all it takes, and so it is Kubernetes 1.20. The first build
takes a quarter of an hour of two cores. `start()` lets it run by itself, so that other tests go on meanwhile, and a run
that ends before it is done leaves it to the next one.

    python -m tests.deployment.kube_build        builds now and waits
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deployment.tools import CACHE, ROOT

VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
FOLDER = CACHE / f"kubernetes-{VERSION}"
LOG = CACHE / "kubernetes-build.log"
LOCK = CACHE / ".kubernetes-build.lock"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCE = f"deb-src [signed-by={KEYRING}] http://deb.debian.org/debian bookworm main\n"
# The vendored reflect2 faults under Go 1.18 and newer (modern-go/reflect2 issue 24); Debian's own does not.
REFLECT2 = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")
PACKAGES = {  # what compiles -> how to see that it is there
    "golang-go": lambda: shutil.which("go"),
    "golang-github-modern-go-reflect2-dev": REFLECT2.exists,
    "rsync": lambda: shutil.which("rsync"),
    "dpkg-dev": lambda: shutil.which("dpkg-source"),
}
COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"  # of the release, as `kubectl version` shows it


def ready() -> bool:
    return all((FOLDER / name).is_file() for name in (*PROGRAMS, "pause"))


def running() -> bool:
    """Whether some process builds at this moment."""
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start() -> None:
    """Builds in a process of its own, which outlives this one. Nothing when it is done or under way."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if ready() or running():
        return
    with LOG.open("wb") as log:
        subprocess.Popen(
            ["nice", "-n", "5", sys.executable, "-m", "tests.deployment.kube_build"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def build() -> None:
    """Raises CalledProcessError; what went wrong stands on standard error."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready():
            return
        for left in CACHE.glob("kubernetes-build-*"):  # gigabytes of a build that was killed
            subprocess.run(["rm", "-rf", left], check=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="kubernetes-build-") as folder:
            tree = _source(Path(folder))
            _compile(tree, Path(folder))
            partial = FOLDER.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name in PROGRAMS:
                shutil.copy2(tree / "_output/bin" / name, partial / name)
            pause = next(tree.glob("build/pause/**/pause.c"))
            _run("gcc", "-Os", "-static", "-DVERSION=3.2", "-o", str(partial / "pause"), str(pause))
            shutil.rmtree(FOLDER, ignore_errors=True)
            partial.rename(FOLDER)
            _run("chmod", "-R", "u+w", folder)  # Go's module cache is read-only


def _source(folder: Path) -> Path:
    """The unpacked source package. The machine's own apt knows nothing of it."""
    folder.chmod(0o755)
    (folder / "sources.list").write_text(SOURCE)
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    apt = ["apt-get", "-q", f"-oDir::Etc::sourcelist={folder}/sources.list", "-oDir::Etc::sourceparts=-"]
    apt += [f"-oDir::State::lists={folder}/lists", f"-oDir::Cache={folder}", "-oAPT::Sandbox::User=root"]
    _run(*apt, "update", cwd=folder)
    _run(*apt, "source", "--download-only", "kubernetes", cwd=folder)
    (description,) = folder.glob(f"kubernetes_*{VERSION}-*.dsc")
    tree = folder / "tree"
    _run("dpkg-source", "--no-check", "-x", str(description), str(tree), cwd=folder)
    vendored = tree / "vendor/github.com/modern-go/reflect2"
    for pattern in ("*.go", "*.s"):
        for file in vendored.glob(pattern):
            file.unlink()
        for file in REFLECT2.glob(pattern):
            if not file.name.endswith("_test.go"):
                shutil.copy2(file, vendored)
    return tree


def _compile(tree: Path, folder: Path) -> None:
    major, minor, _ = VERSION.split(".")
    version = folder / "version"
    version.write_text(
        f"KUBE_GIT_COMMIT='{COMMIT}'\nKUBE_GIT_TREE_STATE='archive'\nKUBE_GIT_VERSION='v{VERSION}'\n"
        f"KUBE_GIT_MAJOR='{major}'\nKUBE_GIT_MINOR='{minor}'\n"
    )
    go_path, home = tree / ".go", folder / "home"
    (go_path / "src/k8s.io").mkdir(parents=True)
    (go_path / "src/k8s.io/kubernetes").symlink_to(tree)
    home.mkdir()
    settings = {"GOPATH": go_path, "HOME": home, "CGO_ENABLED": "0", "KUBE_GIT_VERSION_FILE": version}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    environment.pop("GOFLAGS", None)
    what = " ".join(f"cmd/{name}" for name in PROGRAMS)
    _run("make", f"WHAT={what}", cwd=tree, env=environment)


def _run(*command: str, **options) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


if __name__ == "__main__":
    build()
