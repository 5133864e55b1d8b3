"""The product's main job as a person meets it: a real browser, the gateway, TorchServe and the shipped bundle."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from ball_clip import make_clip
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, expect
from stand_in import serve

from api_service.api.service import create_app

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(600)]
WAVEFORM_DRAWN = "() => new Set([...document.querySelectorAll('.bar')].map((bar) => bar.style.transform)).size > 8"
WORK_S = 300  # a busy machine of two cores


def expect_phase(page: Page, phase: str, limit_s: float = 30) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", phase, timeout=limit_s * 1000)


@contextmanager
def a_new_job(page: Page) -> Iterator[None]:
    """What happens inside leads the page to a job of another address; the next job may be there within milliseconds."""
    before = page.url
    yield
    page.wait_for_function("(before) => location.href !== before", arg=before)


def generate(page: Page, clip: Path) -> None:
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "ready")
    page.click("[data-action=generate]")


def packets(path: Path, kind: str) -> list[str]:
    """Hash of every packet of the "video" or the "audio" track."""
    with av.open(str(path)) as file:
        return [hashlib.sha256(bytes(packet)).hexdigest() for packet in file.demux(**{kind: 0}) if packet.size]


def test_a_silent_clip_goes_in_and_plays_and_downloads_with_sound(stack, open_page, silent_clip, tmp_path):
    page = open_page(stack.url)
    page.evaluate("""() => { window.shares = []; const percent = document.querySelector('[data-percent]');
        new MutationObserver(() => document.body.dataset.phase === 'running' && window.shares.push(
            document.querySelector('[data-bar]').value)).observe(percent, {childList: true}); }""")
    generate(page, silent_clip)
    expect_phase(page, "succeeded", WORK_S)
    shares = page.evaluate("window.shares")
    assert shares == sorted(shares), "progress never runs backwards"
    assert len(set(shares)) >= 3, "progress came while it worked"

    assert page.evaluate("document.querySelector('video').paused")
    page.evaluate("document.querySelector('video').play()")
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.5")
    page.wait_for_function("() => document.querySelector('video').webkitAudioDecodedByteCount > 0")
    assert page.evaluate("document.querySelector('video').webkitVideoDecodedByteCount > 0")
    assert not page.evaluate("document.querySelector('video').muted")
    page.get_by_role("radio", name="Without").check()
    assert page.evaluate("document.querySelector('video').muted")
    page.get_by_role("radio", name="With sound").check()
    page.wait_for_function(WAVEFORM_DRAWN)
    page.wait_for_function("() => document.querySelector('[data-spectrogram]').naturalWidth >= 600")
    with page.expect_download() as download:
        page.get_by_role("link", name="Sound only").click()
    with wave.open(str(download.value.path())) as sound:
        assert sound.getnframes() == round(3.0 * sound.getframerate()), "exactly as long as the clip"

    with page.expect_download() as download:
        page.get_by_role("link", name="Download video").click()
    assert download.value.suggested_filename == "bouncing ball-with-sound.mp4"
    saved = tmp_path / "saved.mp4"
    download.value.save_as(saved)
    assert packets(saved, "video") == packets(silent_clip, "video"), "the picture stays exactly as it was"
    with av.open(str(saved)) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0))
        rate = file.streams.audio[0].sample_rate
    assert abs(heard / rate - 3.0) < 2 * 1024 / rate + 0.05


def test_an_event_marker_seeks_to_its_moment(stack, open_page, silent_clip):
    page = open_page(stack.url)
    generate(page, silent_clip)
    expect_phase(page, "succeeded", WORK_S)
    markers = page.locator("[data-at]")
    if markers.count() == 0:  # a bundle may hear nothing in this ball; then it must say so
        expect(page.locator("[data-events-line]")).to_contain_text("quiet room tone")
        return
    at = float(markers.last.get_attribute("data-at"))
    markers.last.click()
    page.wait_for_function("(t) => Math.abs(document.querySelector('video').currentTime - t) < 0.6", arg=at)


def test_a_reload_in_mid_job_finds_the_job_again(stack, open_page, silent_clip):
    page = open_page(stack.url)
    generate(page, silent_clip)
    page.wait_for_function("() => location.hash.startsWith('#job=')")
    address = page.url
    page.reload()
    expect_phase(page, "succeeded", WORK_S)
    assert page.url == address
    expect(page.locator("[data-clip-list] li")).to_contain_text("bouncing ball.mp4")


def test_cancel_is_heard_at_once_and_the_next_clip_works(stack, open_page, silent_clip, tmp_path):
    long_clip = make_clip(tmp_path / "long.mp4", 20.0, (160, 90))
    page = open_page(stack.url)
    generate(page, long_clip)
    page.wait_for_function("() => ['queued', 'running'].includes(document.body.dataset.phase)")
    page.get_by_role("button", name="Cancel").click()
    expect_phase(page, "canceled", 20)
    page.get_by_role("button", name="New clip").click()
    generate(page, silent_clip)
    expect_phase(page, "succeeded", WORK_S)


def test_offline_the_work_goes_on_and_the_page_catches_up(stack, open_page, tmp_path, watch):
    watch.allowed += ["ERR_INTERNET_DISCONNECTED", "ERR_NETWORK"]
    clip = make_clip(tmp_path / "thirty.mp4", 30.0, (160, 90))
    page = open_page(stack.url)
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "ready")
    page.context.set_offline(True)
    page.click("[data-action=generate]")
    expect_phase(page, "failed")
    expect(page.locator("[data-problem-title]")).to_have_text("The server cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => ['queued', 'running'].includes(document.body.dataset.phase)")
    page.context.set_offline(True)
    expect(page.locator("[data-lost]")).to_be_visible(timeout=60_000)
    page.context.set_offline(False)
    expect_phase(page, "succeeded", WORK_S)


def test_a_gateway_that_is_killed_in_mid_job_is_caught_up_with(stack, open_page, tmp_path, watch):
    watch.allowed += ["ERR_", "status of 5"]
    clip = make_clip(tmp_path / "thirty.mp4", 30.0, (160, 90))
    page = open_page(stack.url)
    generate(page, clip)
    page.wait_for_function("() => document.body.dataset.phase === 'running'", timeout=WORK_S * 1000)
    address = page.url
    stack.children["gateway"].stop(signal.SIGKILL)  # told to stop, it would finish the job first on a fast machine
    try:
        expect(page.locator("[data-lost]")).to_be_visible(timeout=60_000)
    finally:
        stack.start_gateway()
        stack.wait_until_ready()
    expect_phase(page, "succeeded", WORK_S)
    assert page.url == address


def test_two_tabs_do_not_disturb_each_other(stack, open_page, silent_clip, sounding_clip):
    one = open_page(stack.url)
    two = open_page(stack.url, context=one.context)
    generate(one, silent_clip)
    generate(two, sounding_clip)
    for tab, name in ((one, silent_clip.name), (two, sounding_clip.name)):
        expect_phase(tab, "succeeded", WORK_S)
        expect(tab.locator("[data-result-line]")).to_contain_text(name)
        expect(tab.locator("[data-clip-list] li")).to_have_count(2)
    assert one.url != two.url


def test_a_sample_clip_gets_its_sound(stack, open_page):
    page = open_page(stack.url)
    page.get_by_role("button", name="a drum", exact=True).click()
    expect_phase(page, "ready")
    page.click("[data-action=generate]")
    expect_phase(page, "succeeded", WORK_S)
    expect(page.locator("[data-result-line]")).to_contain_text("drum.mp4")


def test_a_result_is_shared_changed_and_taken_again_without_a_second_upload(stack, open_page, silent_clip, watch):
    watch.allowed.append("status of 404")
    page = open_page(stack.url)
    uploads = []
    page.on("request", lambda request: request.method == "POST" and request.url.endswith("/v1/jobs")
            and uploads.append(request.url))
    generate(page, silent_clip)
    expect_phase(page, "succeeded", WORK_S)

    page.get_by_role("tab", name="Share").click()
    page.get_by_role("button", name="Create a link").click()
    expect(page.locator("[data-link]")).to_be_visible()
    link = page.locator("[data-share-link]").input_value()
    guest = open_page(link)
    expect_phase(guest, "succeeded")
    guest.wait_for_function("() => document.querySelector('video').readyState > 0")
    guest.wait_for_function(WAVEFORM_DRAWN)
    expect(guest.get_by_role("button", name="Another take")).to_be_hidden()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("button", name="Create a link")).to_be_visible()
    guest.reload()
    expect_phase(guest, "missing")

    page.get_by_role("tab", name="Adjust").click()
    for button in page.get_by_role("button", name="Remove the sound").all()[::-1]:
        button.click()
    page.evaluate("document.querySelector('video').currentTime = 1.5")
    page.get_by_role("button", name="Add one at 0:01.5").click()
    page.locator("[data-offset]").fill("80")
    with a_new_job(page):
        page.get_by_role("button", name="Make it again").click()
    expect_phase(page, "succeeded", WORK_S)
    expect(page.locator("[data-events] li")).to_have_count(1)
    assert float(page.locator("[data-at]").get_attribute("data-at")) == pytest.approx(1.58, abs=0.001)

    with a_new_job(page):
        page.get_by_role("button", name="Another take").click()
    expect_phase(page, "succeeded", WORK_S)
    expect(page.locator("[data-result-line]")).to_contain_text("take 1")
    expect(page.locator("[data-events] li")).to_have_count(1)
    assert len(uploads) == 1


@pytest.fixture(params=["on loopback", "open to all"])
def gateway(request, stack, tmp_path) -> Iterator[str]:
    """Address of a gateway: on loopback a job belongs to nobody, open to all to the visitor whose cookie was signed."""
    if request.param == "on loopback":
        yield stack.url
        return
    settings = {"host": "0.0.0.0", "anonymous": True, "data_dir": tmp_path / "var"}
    with serve(create_app(stack.settings.model_copy(update=settings))) as url:
        yield url


def test_the_code_does_what_was_done_in_the_page(gateway, open_page, silent_clip, tmp_path):
    name = "it's, a ball; 100%.mp4"
    clip = tmp_path / name
    clip.write_bytes(silent_clip.read_bytes())
    page = open_page(gateway)
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "ready")
    page.click("summary")
    page.select_option("[data-category]", index=1)
    page.fill("[data-seed]", "7")
    page.click("[data-action=generate]")
    expect_phase(page, "succeeded", WORK_S)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download video").click()
    heard = packets(download.value.path(), "audio")
    page.get_by_role("tab", name="Code").click()
    node = compute_driver_executable()
    commands = {"curl": ["bash", "-euo", "pipefail", "program"], "Python": [sys.executable, "program"],
                "JavaScript": [node if isinstance(node, str) else node[0], "program.mjs"]}
    for language, command in commands.items():
        page.get_by_role("radio", name=language).check()
        folder = tmp_path / language
        folder.mkdir()
        (folder / name).write_bytes(clip.read_bytes())
        (folder / command[-1]).write_text(page.locator("[data-code]").inner_text())
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WORK_S,
                             env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
        assert ran.returncode == 0, f"{language}: {ran.stderr}"
        made = folder / "it's, a ball; 100%-with-sound.mp4"
        assert packets(made, "audio") == heard, f"{language} makes the very same sound"


def test_a_broken_file_is_told_in_words(stack, open_page, silent_clip, tmp_path, watch):
    watch.allowed += ["status of 4", "ERR_"]  # the browser itself reports a refused upload
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(silent_clip.read_bytes()[:6000])
    page = open_page(stack.url)
    generate(page, cut)
    expect_phase(page, "failed", 60)
    expect(page.locator("[data-problem-title]")).to_have_text("This file is cut off")
    expect(page.locator("[data-problem-hint]")).not_to_be_empty()


def test_a_clip_above_the_limit_is_refused_with_the_servers_own_figure(stack, open_page, tmp_path):
    page = open_page(stack.url)
    limits = page.evaluate("fetch('v1/limits').then((answer) => answer.json())")
    seconds = limits["max_duration_s"] + 5
    page.set_input_files("[data-file]", make_clip(tmp_path / "long.mp4", seconds, (64, 36), fps=1))
    expect_phase(page, "refused")
    expect(page.locator("[data-refusal-title]")).to_contain_text("too long")


def test_on_a_phone_the_whole_path_works(stack, open_page, silent_clip):
    page = open_page(stack.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    generate(page, silent_clip)
    expect_phase(page, "succeeded", WORK_S)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    with page.expect_download():
        page.get_by_role("link", name="Download video").tap()
