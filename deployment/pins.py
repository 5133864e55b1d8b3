"""Pins by content: `make pins` writes the digest of every image and the commit of every action of other people.

    image:tag@sha256:<digest>                      in Dockerfiles, Compose files, playbooks
    digest: sha256:<digest>  # pin: image:tag      in kustomizations
    uses: owner/repository@<commit> # tag          in workflows

Until it has run, digests and commits are zeros, which nothing answers to: they refuse to deploy, and nobody can mistake
them for a real hash. `--check` changes nothing and exits 1 while a placeholder is left.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
PLACES = (
    ".github/**/*.yml",
    "deployment/**/*.yml",
    "deployment/**/*.yaml",
    "deployment/**/Dockerfile*",
    "src/**/Dockerfile*",
)
IMAGE = re.compile(r"(?P<name>\b\w[\w.-]*(?:(?::\d+)?/[\w./-]+)?:\w[\w.-]*)@sha256:(?P<hash>[0-9a-f]{64})")
DIGEST = re.compile(r"digest: sha256:(?P<hash>[0-9a-f]{64})\s+# pin: (?P<name>\S+)")
ACTION = re.compile(r"uses: (?P<name>[\w.-]+/[\w.-]+)(?:/[\w./-]+)?@(?P<hash>[0-9a-f]{40}) # (?P<tag>\S+)")
INDEX = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
    )
)


class Unresolved(Exception):
    """A registry or GitHub did not tell."""


def image_digest(reference: str) -> str:
    """The digest (64 hex digits) that a registry gives for `name:tag`. Raises Unresolved."""
    name, tag = reference.rsplit(":", 1)
    host, _, path = name.partition("/")
    if not path or not re.search(r"[.:]|^localhost$", host):  # Docker Hub's short names
        host, path = "registry-1.docker.io", name if "/" in name else f"library/{name}"
    scheme = "http" if host.startswith(("127.", "localhost")) else "https"
    url = f"{scheme}://{host}/v2/{path}/manifests/{tag}"
    try:
        answer = httpx.head(url, headers={"accept": INDEX}, timeout=20)
        if answer.status_code == 401:
            token = _token(answer.headers["www-authenticate"])
            answer = httpx.head(url, headers={"accept": INDEX, "authorization": f"Bearer {token}"}, timeout=20)
        answer.raise_for_status()
        return re.fullmatch(r"sha256:([0-9a-f]{64})", answer.headers["docker-content-digest"])[1]
    except (httpx.HTTPError, KeyError, TypeError) as exc:
        raise Unresolved(f"{reference}: {exc}") from exc


def _token(challenge: str) -> str:
    wanted = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    answer = httpx.get(wanted.pop("realm"), params=wanted, timeout=20).raise_for_status().json()
    return answer.get("token") or answer["access_token"]


def action_commit(repository: str, tag: str) -> str:
    """The commit (40 hex digits) of an action's tag; of an annotated tag, what it points to. Raises Unresolved."""
    command = ["git", "ls-remote", f"https://github.com/{repository}", f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = answer.stdout.split("\n")[:-1]
    if answer.returncode or not lines:
        raise Unresolved(f"{repository}@{tag}: {answer.stderr.strip() or 'there is no such tag'}")
    return lines[-1].split("\t")[0]


def files(root: Path) -> Iterator[Path]:
    for place in PLACES:
        yield from sorted(root.glob(place))


def placeholders(root: Path) -> list[str]:
    """`file: name` of everything that is not pinned. The digests of our own images are the playbooks' affair."""
    found = []
    for path in files(root):
        for pattern in (IMAGE, DIGEST, ACTION):
            for match in pattern.finditer(path.read_text()):
                if not match["hash"].strip("0"):
                    found.append(f"{path.relative_to(root)}: {match['name']}")
    return found


def pin(root: Path) -> list[str]:
    """Writes every hash that can be had; returns what could not be resolved, each with its reason."""
    known: dict[tuple[str, ...], str] = {}
    failures: list[str] = []

    def resolve(match: re.Match) -> str:
        key = (match["name"], match["tag"]) if match.re is ACTION else (match["name"],)
        if key not in known:
            try:
                known[key] = action_commit(*key) if match.re is ACTION else image_digest(*key)
            except Unresolved as exc:
                failures.append(str(exc))
                known[key] = match["hash"]
        return match[0].replace(match["hash"], known[key])

    for path in files(root):
        before = after = path.read_text()
        for pattern in (IMAGE, DIGEST, ACTION):
            after = pattern.sub(resolve, after)
        if after != before:
            path.write_text(after)
            print(f"{path.relative_to(root)}: pinned")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only tell what is not pinned yet")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    if options.check:
        if left := placeholders(options.root):
            sys.exit("Not pinned yet (run `make pins` and commit):\n  " + "\n  ".join(left))
        return
    if failures := pin(options.root):
        sys.exit("Not resolved:\n  " + "\n  ".join(failures))


if __name__ == "__main__":
    main()
