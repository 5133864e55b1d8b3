"""Where the browser comes from: Google Chrome, else the system's Chromium, else Playwright's own."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import Browser, Playwright

# Chrome first: on GitHub's machines /usr/bin/chromium is a build that plays no H.264.
SYSTEM = (Path("/usr/bin/google-chrome"), Path("/usr/bin/chromium"))


def system_browser() -> Path | None:
    return next((path for path in SYSTEM if path.exists()), None)


def is_there(playwright: Playwright) -> bool:
    return system_browser() is not None or Path(playwright.chromium.executable_path).exists()


def launch(playwright: Playwright) -> Browser:
    flags = ["--disable-background-networking", "--disable-component-update"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    return playwright.chromium.launch(executable_path=system_browser(), args=flags)


def plays_h264(browser: Browser) -> bool:
    page = browser.new_page()
    answer = page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')")
    page.close()
    return bool(answer)
