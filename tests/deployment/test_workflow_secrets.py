"""No key was ever committed: every line that any commit added is looked at."""

from __future__ import annotations

import re

import pytest
from tests.deployment.tools import run

SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "Google service account key": r'"private_key_id"\s*:\s*"[0-9a-f]{40}"',
    "Google OAuth token": r"\bya29\.[0-9A-Za-z_-]{30,}",
    "AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{60,})",
    "Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{20,}",
    "JSON web token": r"\beyJ[0-9A-Za-z_-]{20,}\.eyJ[0-9A-Za-z_-]{20,}\.[0-9A-Za-z_-]{20,}",
    "password in an address": r"\b[a-z][a-z+]+://[^\s:/@{$\"']+:[^\s:/@{$<\"']{12,}@(?!127\.|localhost|[a-z-]+:5432)",
}


def _found(text: str) -> list[str]:
    return [f"{kind}: {line[:80]}" for line in text.splitlines() for kind, p in SECRETS.items() if re.search(p, line)]


@pytest.mark.timeout(600)
def test_no_commit_ever_added_a_secret():
    history = run("git", "log", "--all", "--patch", "--unified=0", "--no-color", "--format=", within_s=500)
    assert history.returncode == 0, history.stderr
    added = "\n".join(line[1:] for line in history.stdout.splitlines() if line.startswith("+"))
    assert len(added) > 100_000
    assert not _found(added)


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "AIza" + "x" * 35,
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1" * 18,
        "postgresql://me:" + "not-a-good-place@db.example.org/x",
    ],
)
def test_the_scan_knows_a_secret_when_it_sees_one(secret):
    assert _found(f"key = '{secret}'")
