"""Pictures of the page, as WebP: `python tests/browser/screenshots.py OUT [--url http://127.0.0.1:9000]`.

With --url a clip really is given its sound by the running service; without it a stand-in shows every state alone.
The README's pictures: `... images --url http://127.0.0.1:9000 --looks desktop-light phone-dark`, the rest thrown away.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from pathlib import Path

from ball_clip import make_clip
from chromium import launch
from playwright.sync_api import Page, expect, sync_playwright
from stand_in import Desk, create_stand_in, knock_levels, report, serve

LOOKS = {
    "desktop-light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone-light": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light", "device_scale_factor": 2},
    "phone-dark": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "device_scale_factor": 2},
    "desktop-german": {"viewport": {"width": 1280, "height": 860}, "locale": "de-DE"},
    "narrow-forced-colours": {"viewport": {"width": 320, "height": 640}, "forced_colors": "active"},
}


def phase(page: Page, name: str, timeout_s: float = 30) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", name, timeout=timeout_s * 1000)
    page.wait_for_timeout(700)  # transitions


def play_to(page: Page, time_s: float) -> None:
    page.evaluate("(t) => new Promise((done) => { const v = document.querySelector('video');"
                  "v.onseeked = done; v.currentTime = t; })", time_s)
    page.wait_for_timeout(700)


def states(page: Page, url: str, desk: Desk, clip: Path, long_clip: Path, shoot) -> None:
    """Walk through every state of the page with a stand-in that does as told."""
    page.goto(url)
    phase(page, "idle")
    shoot("idle")
    page.set_input_files("[data-file]", long_clip)
    phase(page, "refused")
    shoot("refused")
    page.set_input_files("[data-file]", clip)
    phase(page, "ready")
    shoot("ready")
    page.click("summary")
    shoot("options")
    desk.upload_delay_s = 1.5
    page.click("[data-action=generate]")
    phase(page, "uploading", 3)
    shoot("uploading")
    phase(page, "queued")
    desk.put(desk.newest, state="queued", queue_position=3, eta_s=25)
    page.wait_for_timeout(300)
    shoot("queued")
    desk.move("frames", 52, 75)
    phase(page, "running")
    shoot("running-frames")
    desk.move("vocode", 44_100, 66_150)
    page.wait_for_timeout(900)
    shoot("running-vocode")
    desk.broken = True
    page.locator("[data-lost]:not([hidden])").wait_for(timeout=20_000)
    shoot("lost")
    desk.broken = False
    desk.succeed(report=report(10.0, notes=("The clip is short of light; the timing may be less sure.",)))
    phase(page, "succeeded")
    page.wait_for_timeout(800)
    play_to(page, 2.2)
    shoot("succeeded")
    page.locator("#tab-adjust").click()
    page.locator("[data-offset]").fill("80")
    shoot("adjust")
    page.locator("#tab-share").click()
    shoot("share")
    page.locator("[data-action=share]").click()
    page.locator("[data-link]:not([hidden])").wait_for()
    shoot("shared")
    page.locator("#tab-code").click()
    page.locator("#code-python").check()
    shoot("code")
    link = page.input_value("[data-share-link]")
    page.goto(link)
    phase(page, "succeeded")
    play_to(page, 4.0)
    shoot("guest")
    page.goto(f"{url}/#job=job-999")
    phase(page, "missing")
    shoot("missing")
    desk.upload_delay_s = 0
    for state in ("failed", "canceled"):
        page.set_input_files("[data-file]", clip)
        phase(page, "ready")
        page.click("[data-action=generate]")
        phase(page, "queued")
        if state == "failed":
            desk.fail("processing_failed")
        else:
            page.click("[data-action=cancel]")
        phase(page, state)
        shoot(state)


def real(page: Page, url: str, clip: Path | None, shoot) -> None:
    """The main path, on a running service, with `clip` or a sample."""
    page.goto(url)
    phase(page, "idle")
    shoot("idle")
    if clip:
        page.set_input_files("[data-file]", clip)
    else:
        page.click("[data-sample=drum]")
    phase(page, "ready")
    page.click("[data-action=generate]")
    phase(page, "running", 120)
    page.wait_for_function("() => document.querySelector('[data-bar]').value > 30", timeout=300_000)
    shoot("running")
    phase(page, "succeeded", 600)
    page.wait_for_timeout(1500)
    play_to(page, 2.2)
    shoot("result")
    page.locator("#tab-adjust").click()
    page.wait_for_timeout(300)
    shoot("adjust")


def take(page: Page, path: Path) -> None:
    """The whole page as WebP."""
    height = page.evaluate("document.documentElement.scrollHeight")
    area = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height, "scale": 1}
    session = page.context.new_cdp_session(page)
    told = session.send("Page.captureScreenshot", {"format": "webp", "quality": 82, "captureBeyondViewport": True,
                                                   "clip": area})
    session.detach()
    path.write_bytes(base64.b64decode(told["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", help="a running service; without it a stand-in shows the states")
    parser.add_argument("--clip", type=Path, help="a video of your own")
    parser.add_argument("--looks", nargs="*", choices=LOOKS, default=list(LOOKS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if not options.url:
            clip = options.clip or make_clip(Path(folder) / "bouncing ball.mp4", 10.0, (640, 360), sound=True)
            long_clip = make_clip(Path(folder) / "a whole afternoon.mp4", 130.0, (64, 36), fps=2)
        browser = launch(playwright)
        for look in options.looks:
            page = browser.new_context(**{"locale": "en-GB", **LOOKS[look]}).new_page()

            def shoot(name: str, page: Page = page, look: str = look) -> None:
                take(page, options.out / f"page-{name}-{look}.webp")

            if options.url:
                real(page, options.url, options.clip, shoot)
            else:
                desk = Desk(result=clip, peaks=[[-level, level] for level in knock_levels(10.0)])
                with serve(create_stand_in(desk)) as url:
                    states(page, url, desk, clip, long_clip, shoot)
                    page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
