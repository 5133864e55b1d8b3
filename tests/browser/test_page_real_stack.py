"""The product's main job as a person meets it: a real browser, the gateway, TorchServe and the shipped bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import pytest
from ball_clip import make_clip
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(600)]
WAVEFORM_DRAWN = "() => new Set([...document.querySelectorAll('.bar')].map((bar) => bar.style.transform)).size > 8"
WORK_S = 300  # a busy machine of two cores


def expect_phase(page: Page, phase: str, limit_s: float = 30) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", phase, timeout=limit_s * 1000)


def generate(page: Page, clip: Path) -> None:
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "ready")
    page.click("[data-action=generate]")


def picture_packets(path: Path) -> list[str]:
    """Hash of every packet of the video track."""
    with av.open(str(path)) as file:
        return [hashlib.sha256(bytes(packet)).hexdigest() for packet in file.demux(video=0) if packet.size]


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
    page.wait_for_function(WAVEFORM_DRAWN)

    with page.expect_download() as download:
        page.get_by_role("link", name="Download video").click()
    assert download.value.suggested_filename == "bouncing ball-with-sound.mp4"
    saved = tmp_path / "saved.mp4"
    download.value.save_as(saved)
    assert picture_packets(saved) == picture_packets(silent_clip), "the picture stays exactly as it was"
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
