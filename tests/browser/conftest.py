"""A real browser, watched: no console error, no CSP violation, no request to another host goes unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from ball_clip import make_clip
from chromium import is_there, launch, plays_h264
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from stand_in import Desk, create_stand_in, serve

if TYPE_CHECKING:
    from s2s.serving import Stack


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright) if is_there(playwright) else None
        if started is None or not plays_h264(started):
            reason = "needs a browser that plays H.264: apt-get install chromium, or Google Chrome"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield started
        started.close()


expect.set_options(timeout=30_000)  # a busy machine of two cores


class Watch:
    """What a page must not do. `allowed` holds pieces of console errors that a test provokes on purpose."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.bytes_by_path: dict[str, int] = {}

    def attach(self, page: Page, host: str) -> None:
        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.errors.append(f"{message.text} {message.location.get('url', '')}")

        def asked(request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in ("blob", "data") and parts.netloc != host:
                self.foreign.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", asked)
        page.add_init_script("window.cspViolations = []; document.addEventListener('securitypolicyviolation', "
                             "(e) => window.cspViolations.push(`${e.violatedDirective} ${e.blockedURI}`));")

    def check(self, pages: list[Page]) -> None:
        wrong = [error for error in self.errors if not any(piece in error for piece in self.allowed)]
        assert wrong == [], "the console must stay clean"
        assert self.foreign == [], "nothing may be asked of another host"
        for page in pages:
            if not page.is_closed():
                assert page.evaluate("window.cspViolations") == [], "the content security policy must hold"


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Stack:
    """TorchServe, the gateway and the shipped bundle, shared with the other tests of the session."""
    from tests.stack import shared_stack  # brings torch, which no other test here needs

    return shared_stack(pytestconfig)


@pytest.fixture
def watch() -> Watch:
    return Watch()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, watch: Watch) -> Iterator[OpenPage]:
    """open_page(url, **context options) -> a watched page in a browser profile of its own."""
    contexts, pages = [], []

    def open_one(url: str, **options) -> Page:
        context = options.pop("context", None)
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **options})
            context.set_default_timeout(60_000)  # two busy cores
            contexts.append(context)
        page = context.new_page()
        watch.attach(page, urlsplit(url).netloc)
        pages.append(page)
        page.goto(url)
        return page

    yield open_one
    try:
        watch.check(pages)
    finally:
        for context in contexts:
            context.close()


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def silent_clip(clip_dir: Path) -> Path:
    return make_clip(clip_dir / "bouncing ball.mp4")


@pytest.fixture(scope="session")
def sounding_clip(clip_dir: Path) -> Path:
    return make_clip(clip_dir / "sounding.mp4", sound=True)


@pytest.fixture
def desk(sounding_clip: Path) -> Desk:
    return Desk(result=sounding_clip)


@pytest.fixture
def stand_in(desk: Desk) -> Iterator[str]:
    """Address of a gateway that does what `desk` says."""
    with serve(create_stand_in(desk)) as url:
        yield url
