"""Base images made on this machine, for want of a registry: from Debian's archive and from this virtual environment.

They carry the names below and are given to our Dockerfiles as BASE_IMAGE; the Dockerfiles themselves stay unchanged.
`local/torch-python` is local/python with torch where pip would put it, copied from the virtual environment. What torch
loads only on a machine with a GPU (triton, most of cuDNN) is left out of the copy: 3 GB instead of 5.5.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from importlib.metadata import PackageNotFoundError as NotInstalled
from pathlib import Path

from tests.deployment.engine import Engine
from tests.deployment.tools import CACHE

HERE = Path(__file__).parent / "bases"
EXTRA_AUTHORITIES = Path("/usr/local/share/ca-certificates")  # a company's, or a test machine's own
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
SITE_PACKAGES = "usr/local/lib/python3.11/dist-packages"  # where Debian's pip installs
ON_DEBIAN = ("python", "nginx", "postgres", "vm")


def debian(engine: Engine) -> str:
    """A minimal Debian 12 that trusts what this machine trusts, and keeps as little as Debian's own images do."""
    authorities, clean, version = _authorities(), HERE / "docker-clean", _debian_version()
    archive = CACHE / "bases" / f"debian-bookworm-{version}.tar"
    if not archive.is_file():
        shutil.rmtree(archive.parent, ignore_errors=True)
        archive.parent.mkdir(parents=True)
        partial = archive.with_suffix(".part.tar")
        hooks = [f"copy-in {path} {EXTRA_AUTHORITIES}" for path in authorities]
        hooks += [f"copy-in {clean} /etc/apt/apt.conf.d"]
        hooks += [f'chroot "$1" {command}' for command in ("update-ca-certificates", "apt-get clean")]
        command = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "--quiet"]
        command += [f"--customize-hook={hook}" for hook in hooks]
        done = subprocess.run([*command, "bookworm", partial], capture_output=True, text=True, timeout=1800)
        if done.returncode:
            raise RuntimeError(f"mmdebstrap: {done.stderr[-2000:]}")
        partial.replace(archive)
    if not engine.has_image(f"local/debian:{version}"):
        changes = [f"--change=ENV {name}={CA_BUNDLE}" for name in CA_VARIABLES]
        engine.docker("import", *changes, '--change=CMD ["bash"]', str(archive), f"local/debian:{version}")
    engine.docker("tag", f"local/debian:{version}", "local/debian")
    return "local/debian"


def _authorities() -> list[Path]:
    return sorted(EXTRA_AUTHORITIES.glob("*.crt"))


def _debian_version() -> str:
    files = (*_authorities(), HERE / "docker-clean")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def base(engine: Engine, name: str) -> str:
    """`local/<name>` for a name of ON_DEBIAN, or `local/torch-python`. Built when it is not there, or has changed."""
    if name == "torch-python":
        return _torch_python(engine)
    debian(engine)
    engine.docker("build", "-q", "-t", f"local/{name}", "-f", str(HERE / f"{name}.Dockerfile"), str(HERE))
    return f"local/{name}"


def _torch_python(engine: Engine) -> str:
    python = base(engine, "python")
    # By what goes in, not by the image below, which another build of the same makes anew; and by release, not by file:
    # a package asked for by name has one file more than the same one that came along.
    releases = sorted(f"{dist.name} {dist.version}" for dist in _closure("torch", "torchvision"))
    content = "\n".join([_debian_version(), (HERE / "python.Dockerfile").read_text(), *releases])
    version = hashlib.sha256(content.encode()).hexdigest()[:16]
    name = f"local/torch-python:{version}"
    if engine.has_image(name):
        return name
    _forget_torch(engine)
    files = _torch_files()
    container = engine.docker("create", python, "true").strip()
    try:
        changes = [f"--change=ENV {variable}={CA_BUNDLE}" for variable in CA_VARIABLES]
        export = subprocess.Popen(
            ["docker", "export", container], env=engine.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        load = subprocess.Popen(
            ["docker", "import", *changes, "-", name], env=engine.environment(), stdin=subprocess.PIPE
        )
        with (
            tarfile.open(fileobj=export.stdout, mode="r|", bufsize=1 << 20) as source,
            tarfile.open(fileobj=load.stdin, mode="w|", bufsize=1 << 20, format=tarfile.GNU_FORMAT) as target,
        ):
            for member in source:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
            for path, real in files:
                target.add(real, f"{SITE_PACKAGES}/{path}", recursive=False, filter=_as_root)
        load.stdin.close()
        if load.wait(1800) or export.wait(60):
            raise RuntimeError("docker import of the torch base failed")
    finally:
        engine.docker("rm", container, check=False)
    return name


def _forget_torch(engine: Engine) -> None:
    """Removes the former torch base with all that was built on it: some 15 GB that no later build can use."""
    names = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "local/*").split()
    layers = {name: engine.docker("image", "inspect", "-f", "{{.RootFS.Layers}}", name).strip("[]\n") for name in names}
    former = tuple(layers[name] for name in names if name.startswith("local/torch-python:"))
    if of_it := [name for name in names if former and layers[name].startswith(former)]:
        engine.docker("rmi", "--force", *of_it)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _torch_files() -> Iterator[tuple[str, Path]]:
    """(path below site-packages, file) of torch, torchvision and what they need, as far as a CPU can use it."""
    loaded = _loaded_libraries()
    for dist in _closure("torch", "torchvision"):
        for file in sorted(dist.files or (), key=str):
            path, real = str(file), Path(dist.locate_file(file))
            if path.startswith("..") or not real.is_file() or path.endswith((".pyc", ".h", ".hpp", ".cuh", ".a")):
                continue
            if path.startswith("triton/") or (path.startswith("nvidia/") and real.name not in loaded):
                continue  # pip still sees the package by its metadata
            yield path, real


def _closure(*names: str) -> Iterator[Distribution]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            dist = distribution(name)
        except NotInstalled:
            continue  # for another platform
        yield dist
        for requirement in dist.requires or ():
            marker = requirement.partition(";")[2]
            if "extra ==" not in marker or name.startswith("cuda"):
                waiting.append(re.match(r"[A-Za-z0-9._-]+", requirement)[0])


def _loaded_libraries() -> set[str]:
    """Names of the libraries that importing torch loads."""
    library = Path(distribution("torch").locate_file("torch/lib/libtorch_python.so"))
    found = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
    return {line.split()[0] for line in found.splitlines() if "=>" in line}
