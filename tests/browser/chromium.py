"""Where the browser comes from: the system's Chromium, else Playwright's own."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import Browser, Playwright

SYSTEM = Path("/usr/bin/chromium")


def is_there(playwright: Playwright) -> bool:
    return SYSTEM.exists() or Path(playwright.chromium.executable_path).exists()


def launch(playwright: Playwright) -> Browser:
    flags = ["--disable-background-networking", "--disable-component-update"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    return playwright.chromium.launch(executable_path=str(SYSTEM) if SYSTEM.exists() else None, args=flags)
