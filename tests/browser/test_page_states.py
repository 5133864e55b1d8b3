"""The page in states that a test brings about at will: the gateway is the stand-in, browser and page are real."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import chromium
import pytest
from ball_clip import make_clip, make_sound_only
from playwright.sync_api import Page, expect
from stand_in import PAGE, Desk, report

pytestmark = pytest.mark.browser
WAVEFORM_DRAWN = "() => [...document.querySelectorAll('.bar')].some((bar) => bar.style.transform === 'scaleY(1)')"


def expect_phase(page: Page, phase: str, limit_s: float = 15) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", phase, timeout=limit_s * 1000)


def choose(page: Page, clip: Path) -> None:
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "ready")


def generate(page: Page, clip: Path, phase: str = "queued") -> None:
    choose(page, clip)
    page.click("[data-action=generate]")
    expect_phase(page, phase)


def open_result(open_page, url: str, desk: Desk, **fields) -> Page:
    """A page on a finished job of three seconds and four events."""
    desk.put("job-1", **{"state": "succeeded", "filename": "ball.mp4", "report": report(),
                         "expires_at": "2030-05-05T10:20:30Z", **fields})
    page = open_page(f"{url}/#job=job-1")
    expect_phase(page, "succeeded")
    return page


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")


def hear_everything(page: Page) -> None:
    """Collect every sentence of the live region in window.spoken."""
    page.evaluate("""() => { window.spoken = []; const region = document.querySelector('[data-status]');
        new MutationObserver(() => window.spoken.push(region.textContent)).observe(region, {childList: true}); }""")


# ---- the main path ---------------------------------------------------------------------------------------------------

def test_bytes_then_place_in_the_queue_then_true_counts_then_the_result(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    choose(page, silent_clip)
    expect(page.locator("[data-facts]")).to_contain_text("0:03.0")
    expect(page.locator("[data-facts]")).to_contain_text("480 × 270")
    expect(page.locator("[data-plan]")).to_contain_text("new sound track of 0:03.0")
    assert not any(line.startswith("POST") for line in desk.asked), "nothing is sent before Generate"

    desk.first = {"state": "queued", "queue_position": 3, "eta_s": 24}
    desk.hold = True
    page.click("[data-action=generate]")
    expect_phase(page, "uploading")
    expect(page).to_have_title(re.compile("Sending"))
    desk.hold = False
    expect_phase(page, "queued")
    expect(page.locator("[data-work-line]")).to_have_text(
        "2 clips are before yours. About 24 seconds until it is finished.")

    desk.move("frames", 30, 75)
    expect(page.locator("[aria-current=step]")).to_contain_text("30 of 75 pictures")
    expect(page.locator("[data-percent]")).to_have_text("16%")
    assert page.title().startswith("16% – Watch the motion")
    desk.move("vocode", 33_075, 66_150)
    expect(page.locator("[aria-current=step]")).to_contain_text("33,075 of 66,150 samples")
    assert page.locator("[data-stages] [data-state=done]").count() == 5

    desk.succeed()
    expect_phase(page, "succeeded")
    assert page.title() == "Done: bouncing ball.mp4 · Silence to Sound"
    expect(page.locator("[data-result-line]")).to_contain_text("Recognised as ball bounce, sure")
    expect(page.locator("[data-events] li")).to_have_count(4)
    expect(page.locator("[data-events] li").first).to_have_text("0:00.4ball bounce, loud, sure")
    assert page.evaluate("document.querySelector('video').paused"), "nothing plays by itself"
    assert page.get_attribute("video", "preload") == "metadata"
    assert desk.posts[0]["bytes"] == silent_clip.stat().st_size


def test_from_load_to_download_in_twelve_keys(open_page, stand_in, desk: Desk, silent_clip):
    desk.first = {"state": "running", "progress": None}
    page = open_page(stand_in)
    # Listening begins long before the press: a browser that is told too late cancels the dialog that nobody can see.
    page.on("filechooser", lambda chooser: chooser.set_files(silent_clip))
    presses = 0

    def press(key: str) -> None:
        nonlocal presses
        presses += 1
        page.keyboard.press(key)

    while page.evaluate("document.activeElement.id") != "file":
        press("Tab")
        assert presses < 5
    press("Enter")
    expect_phase(page, "ready")
    assert focused(page) == "Generate sound", "focus goes where the work went"
    press("Enter")
    expect_phase(page, "running")
    assert focused(page) in ("Making the sound", "Sending your clip")
    desk.succeed()
    expect_phase(page, "succeeded")
    assert focused(page) == "Your clip has a sound"
    while focused(page) != "Download video":
        press("Tab")
        assert presses < 12
    with page.expect_download() as download:
        press("Enter")
    assert download.value.path().read_bytes() == desk.result.read_bytes()
    assert presses <= 12


def test_markers_seek_and_the_toggle_mutes(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed()
    expect_phase(page, "succeeded")
    page.get_by_role("button", name="Play from 0:01.2").click()
    page.wait_for_function("() => document.querySelector('video').currentTime > 1")
    page.get_by_role("radio", name="Without").check()
    assert page.evaluate("document.querySelector('video').muted")
    page.get_by_role("radio", name="With sound").check()
    assert not page.evaluate("document.querySelector('video').muted")
    page.evaluate("document.querySelector('video').pause()")
    slider = page.get_by_role("slider", name="Position in the clip")
    slider.focus()
    slider.press("Home")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "0:00.1 of 0:03.0")
    slider.press("PageDown")
    slider.press("PageUp")
    slider.press("PageUp")
    expect(slider).to_have_attribute("aria-valuetext", "0:01.2 of 0:03.0: ball bounce, medium loud, sure")
    assert abs(page.evaluate("document.querySelector('video').currentTime") - 1.2) < 0.02


def test_a_mark_on_the_sound_seeks_and_arrows_walk_the_list(open_page, stand_in, desk: Desk, silent_clip):
    page = open_result(open_page, stand_in, desk)
    box = page.locator(".mark").nth(2).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 2)
    page.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 2) < 0.02")
    page.locator("[data-at]").first.focus()
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("0:01.2")
    page.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 1.2) < 0.02")
    expect(page.locator("[data-spectrogram]")).to_be_visible()
    spectrum, line = page.locator("[data-spectrogram]").bounding_box(), page.locator("[data-strip]").bounding_box()
    assert (spectrum["x"], spectrum["width"]) == (line["x"], line["width"]), "one time line"
    assert spectrum["y"] > line["y"]


def test_the_strip_shows_the_sound_that_was_made(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed()
    expect_phase(page, "succeeded")
    page.wait_for_function(WAVEFORM_DRAWN)
    levels = page.evaluate("[...document.querySelectorAll('.bar')].map((bar) => +bar.style.transform.slice(7, -1))")
    knock, silence = max(levels[12:15]), max(levels[2:10])  # bars of 31 ms; the first bounce is at 0.4 s
    assert knock > 0.8
    assert silence < 0.2
    assert page.locator(".mark").count() == 4


def test_another_take_is_the_next_seed_and_no_second_upload(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed()
    expect_phase(page, "succeeded")
    page.click("[data-action=another-take]")
    expect_phase(page, "queued")
    desk.succeed()
    expect_phase(page, "succeeded")
    expect(page.locator("[data-result-line]")).to_contain_text("take 1")
    page.reload()
    expect_phase(page, "succeeded")
    page.click("[data-action=another-take]")
    expect_phase(page, "queued")
    assert desk.retakes == [("job-1", {"seed": 1}), ("job-2", {"seed": 2})]
    assert len(desk.posts) == 1


@pytest.mark.parametrize("why", ["an older gateway", "the upload has gone"])
def test_where_the_server_has_the_clip_no_longer_it_is_sent_once_more(open_page, stand_in, desk: Desk, watch, why):
    watch.allowed += ["status of 404", "status of 410"]
    desk.older = why == "an older gateway"
    desk.retake_refusal = None if desk.older else (410, "gone")
    page = open_result(open_page, stand_in, desk, options={"seed": 0, "category": "wood_hit", "gain_db": -3})
    page.wait_for_function(WAVEFORM_DRAWN)
    page.click("[data-action=another-take]")
    expect_phase(page, "queued")
    post = desk.posts[0]
    assert (post["seed"], post["category"]) == ("1", "wood_hit")
    assert desk.jobs["job-2"]["options"]["gain_db"] == -3
    assert post["bytes"] == desk.result.stat().st_size, "the picture comes back from the result"


def test_a_failed_job_of_yesterday_can_be_tried_again(open_page, stand_in, desk: Desk):
    lost = {"code": "worker_lost", "title": "", "detail": "", "hint": "", "status": 502}
    desk.put("job-1", state="failed", problem=lost, options={"seed": 3, "category": "wood_hit"})
    page = open_page(f"{stand_in}/#job=job-1")
    expect_phase(page, "failed")
    page.get_by_role("button", name="Try again").click()
    expect_phase(page, "queued")
    assert desk.retakes == [("job-1", {})]


# ---- downloads, sharing ----------------------------------------------------------------------------------------------

def test_the_sound_can_be_had_alone(open_page, stand_in, desk: Desk, silent_clip):
    page = open_result(open_page, stand_in, desk)
    with page.expect_download() as download:
        page.get_by_role("link", name="Sound only").click()
    assert download.value.suggested_filename == "ball-with-sound.wav"
    assert download.value.path().read_bytes()[:4] == b"RIFF"
    expect(page.locator("[data-download-copy]")).to_be_hidden()


def test_a_video_that_this_browser_cannot_play_is_shown_as_a_copy(
        open_page, stand_in, desk: Desk, sounding_clip, tmp_path):
    """As every result it has sound: the browser plays that beside a black picture, and sees no error in it."""
    desk.result, desk.h264 = make_clip(tmp_path / "odd.mp4", codec="mpeg4", sound=True), sounding_clip
    page = open_result(open_page, stand_in, desk)
    expect(page.get_by_role("link", name="H.264 version")).to_be_visible()
    page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
    expect(page.locator("[data-copy-note]")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download video").click()
    assert download.value.path().read_bytes() == desk.result.read_bytes(), "the download is the original"


@pytest.mark.parametrize("picture", ["odd", "none"])
def test_a_clip_that_this_browser_cannot_show_is_left_to_the_server(open_page, stand_in, tmp_path, picture):
    """Its picture is of another kind, or none: the browser cannot tell them apart where there is sound."""
    page, clip = open_page(stand_in), tmp_path / "clip.mp4"
    choose(page, make_sound_only(clip) if picture == "none" else make_clip(clip, codec="mpeg4", sound=True))
    expect(page.locator("[data-facts]")).to_contain_text("not readable here")
    page.click("[data-action=generate]")
    expect_phase(page, "queued")


def test_a_late_answer_to_cancel_does_not_take_over_what_came_next(
        open_page, stand_in, desk: Desk, silent_clip, sounding_clip, watch):
    watch.allowed.append("ERR_FAILED")
    held = []
    page = open_page(stand_in)
    generate(page, silent_clip)
    page.route("**/cancel", lambda route: held.append(route))
    page.get_by_role("button", name="Cancel").click()
    expect_phase(page, "canceling")
    desk.put("job-2", filename="other.mp4", state="running", progress=None)
    page.evaluate("location.hash = 'job=job-2'")
    expect_phase(page, "running")
    held[0].abort()
    desk.put("job-2", state="succeeded", report=report())
    expect_phase(page, "succeeded")


def test_whoever_leaves_an_upload_for_another_clip_gets_to_see_it(open_page, stand_in, desk: Desk, silent_clip):
    desk.put("job-1", filename="other.mp4", state="succeeded", report=report())
    page = open_page(stand_in)
    desk.hold = True
    generate(page, silent_clip, "uploading")
    page.route("**/v1/jobs/job-1**", lambda route: None)
    page.evaluate("location.hash = 'job=job-1'")
    page.wait_for_timeout(300)  # until the upload has ended, too
    expect_phase(page, "attaching")
    page.unroute("**/v1/jobs/job-1**")
    page.reload()
    expect_phase(page, "succeeded")
    desk.hold = False
    expect(page.locator("[data-result-line]")).to_contain_text("other.mp4")


def test_captions_of_a_result_do_not_stay_over_the_next_clip(open_page, stand_in, desk: Desk, silent_clip):
    page = open_result(open_page, stand_in, desk)
    page.wait_for_function("() => document.querySelector('video').textTracks[0]?.cues === null"
                           " || document.querySelector('video').textTracks[0]?.cues.length > 0")
    page.evaluate("document.querySelector('video').textTracks[0].mode = 'showing'")
    assert page.evaluate("document.querySelector('video').textTracks[0].cues.length") > 0
    page.click("[data-action=start-over]")
    choose(page, silent_clip)
    assert page.evaluate("document.querySelector('video').textTracks[0].cues.length") == 0


def test_a_clip_that_was_exported_again_after_it_was_chosen_is_asked_for_again(
        open_page, stand_in, desk: Desk, silent_clip, tmp_path, watch):
    watch.allowed.append("ERR_UPLOAD_FILE_CHANGED")
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(silent_clip.read_bytes())
    page = open_page(stand_in)
    choose(page, mine)
    os.utime(mine, (1, 1))
    page.click("[data-action=generate]")
    expect_phase(page, "failed")
    expect(page.locator("[data-problem-title]")).to_have_text("This file cannot be read")


def test_try_again_after_a_proxys_answer_sends_the_same_key(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("status of 503")
    desk.refuse = (503, {"code": "upstream_unavailable", "title": "", "status": 503, "detail": ""})
    page = open_page(stand_in)
    generate(page, silent_clip, "failed")
    page.get_by_role("button", name="Try again").click()
    expect_phase(page, "queued")
    assert len({post["key"] for post in desk.posts}) == 1
    assert len(desk.posts) == 2


def test_another_take_can_be_asked_for_while_the_answer_to_one_that_was_left_is_not_there(
        open_page, stand_in, desk: Desk, watch):
    watch.allowed.append("ERR_FAILED")
    held = []
    desk.put("job-2", filename="other.mp4", state="succeeded", report=report())
    page = open_result(open_page, stand_in, desk)
    page.route("**/retake", lambda route: held.append(route))
    page.get_by_role("button", name="Another take").click()
    expect_phase(page, "asking")
    page.evaluate("location.hash = 'job=job-2'")
    expect_phase(page, "succeeded")
    page.get_by_role("button", name="Another take").click()
    expect_phase(page, "asking")
    assert len(held) == 2
    for request in held:
        request.abort()


def test_my_clips_hear_of_an_end_in_a_tab_that_stays_open(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    page.clock.install()
    page.reload()
    generate(page, silent_clip)
    page.evaluate("location.hash = ''")
    expect_phase(page, "idle")
    desk.succeed()
    page.clock.run_for(31_000)
    expect(page.locator("[data-clip-list] li")).to_contain_text("done")


def test_a_server_that_does_not_tell_its_limits_holds_nobody_up(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    page.route("**/v1/limits", lambda route: None)
    page.reload()
    page.set_input_files("[data-file]", silent_clip)
    expect(page.locator("[data-limits]").first).to_have_text("Looking at bouncing ball.mp4 …")
    expect_phase(page, "ready")


def test_a_shift_that_leaves_no_sound_is_told_in_the_persons_language(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in, locale="de-DE")
    generate(page, silent_clip)
    desk.put("job-1", options={"seed": 0, "category": None, "offset_ms": 5000})
    desk.succeed(report=report(events=[], notes=("The offset moved every event out of the clip.",)))
    expect(page.locator("[data-events-line]")).to_have_text("So verschoben ist kein Klang mehr im Clip.")
    expect(page.locator("[data-notes]")).to_be_hidden()
    clock = "import('./js/words.js').then((words) => words.clock(-0.1, true))"
    assert page.evaluate(clock) == "-0:00,1"


def test_a_result_that_could_not_be_fetched_is_fetched_again_and_not_called_unplayable(
        open_page, stand_in, desk: Desk, watch):
    watch.allowed.append("status of 503")
    desk.failing_results = 3
    page = open_result(open_page, stand_in, desk)
    page.wait_for_function("() => document.querySelector('video').readyState > 0")
    expect(page.locator("[data-copy-note]")).to_be_hidden()
    assert "format=h264" not in page.evaluate("document.querySelector('video').src")
    assert desk.failing_results == 0


def test_whoever_is_in_my_clips_by_keyboard_stays_there_when_a_state_changes(
        open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    page.locator("[data-clip-list] button").focus()
    desk.put("job-1", state="running", progress={"stage": "mel", "step": 1, "total": 2, "fraction": 0.575})
    expect_phase(page, "running")
    expect(page.locator("[data-clip-list] button")).to_be_focused()
    page.locator("[data-clip-list] a").focus()
    desk.succeed()
    expect_phase(page, "succeeded")
    expect(page.locator("[data-clip-list] a")).to_be_focused()


def test_a_shared_link_shows_and_changes_nothing_until_it_is_revoked(open_page, stand_in, desk: Desk, watch):
    watch.allowed.append("status of 404")
    page = open_result(open_page, stand_in, desk)
    page.get_by_role("tab", name="Share").click()
    page.get_by_role("button", name="Create a link").click()
    link = page.get_by_label("Link to this clip")
    expect(link).to_have_value(f"{stand_in}/s/token-1")
    expect(link).to_be_focused()
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator("[data-status]")).to_have_text("Copied")

    guest = open_page(f"{stand_in}/s/token-1")
    expect_phase(guest, "succeeded")
    expect(guest.locator("h2").locator("visible=true").first).to_have_text("A clip with its sound")
    guest.wait_for_function(WAVEFORM_DRAWN)
    guest.wait_for_function("() => document.querySelector('video').readyState > 0")
    for name in ("Another take", "New clip"):
        expect(guest.get_by_role("button", name=name)).to_be_hidden()
    expect(guest.get_by_role("tab")).to_have_count(1)
    expect(guest.locator("[data-clips]")).to_be_hidden()
    assert not any("/v1/jobs/job-1" in line for line in desk.asked[desk.asked.index("GET /s/token-1"):]
                   if "share" not in line), "a guest never asks for the owner's job"

    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("button", name="Create a link")).to_be_focused()
    guest.reload()
    expect_phase(guest, "missing")
    expect(guest.locator("[data-problem-title]")).to_have_text("This link no longer works")
    guest.get_by_role("button", name="New clip").click()
    expect_phase(guest, "idle")
    assert guest.url == f"{stand_in}/"


# ---- adjusting -------------------------------------------------------------------------------------------------------

HEAR_STARTS = """() => {
    window.starts = []; window.gains = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (at, from = 0) {
        window.starts.push({from, video: document.querySelector('video').currentTime});
        return start.apply(this, arguments);
    };
    const create = AudioContext.prototype.createGain;
    AudioContext.prototype.createGain = function () {
        const node = create.apply(this);
        window.gains.push(node.gain);
        return node;
    };
}"""


def test_time_and_volume_are_heard_at_once_and_kept_by_a_new_render(open_page, stand_in, desk: Desk):
    page = open_result(open_page, stand_in, desk)
    page.evaluate(HEAR_STARTS)
    page.get_by_role("tab", name="Adjust").click()
    expect(page.get_by_role("button", name="Make it again")).to_be_disabled()
    gain = page.get_by_role("slider", name="Softer or louder")
    gain.focus()
    for _ in range(6):
        gain.press("ArrowLeft")
    expect(gain).to_have_attribute("aria-valuetext", "-6 dB")
    assert page.evaluate("window.gains[0].value") == pytest.approx(0.501, abs=0.001), "the video's own sound is softer"
    offset = page.get_by_role("slider", name="Earlier or later")
    offset.focus()
    for _ in range(8):
        offset.press("ArrowRight")
    expect(offset).to_have_attribute("aria-valuetext", "80 ms later")
    page.evaluate("document.querySelector('video').currentTime = 1")
    page.evaluate("document.querySelector('video').play()")
    page.wait_for_function("() => window.starts.some((one) => one.from > 0)", timeout=60_000)
    start = page.evaluate("window.starts.find((one) => one.from > 0)")
    assert start["video"] - start["from"] == pytest.approx(0.08, abs=0.001), "the sound lies 80 ms later"
    assert page.evaluate("window.gains.map((gain) => gain.value)") == pytest.approx([0, 0.501], abs=0.001)
    page.evaluate("document.querySelector('video').pause()")

    page.get_by_role("button", name="Make it again").click()
    expect_phase(page, "queued")
    assert desk.retakes == [("job-1", {"offset_ms": 80, "gain_db": -6})], "no moments: they are found as before"
    assert desk.posts == []
    assert page.evaluate("window.gains.map((gain) => gain.value)") == [1, 0], "what is made new is not shifted twice"


def test_moments_are_moved_added_and_removed_by_keyboard(open_page, stand_in, desk: Desk):
    page = open_result(open_page, stand_in, desk)
    page.get_by_role("tab", name="What you will hear").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Adjust")).to_be_focused()
    times = page.get_by_label("Time of this sound, in seconds")
    expect(times).to_have_count(4)
    times.first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.55")
    page.get_by_label("Loudness of the sound at 0:01.2").select_option("soft")
    page.get_by_role("button", name="Remove the sound at 0:02.0").press("Enter")
    expect(page.get_by_role("button", name="Remove the sound at 0:02.8")).to_be_focused()
    expect(page.locator("[data-status]")).to_have_text("Removed; 3 are left.")
    page.evaluate("document.querySelector('video').currentTime = 2.4")
    page.get_by_role("button", name="Add one at 0:02.4").press("Enter")
    assert page.evaluate("document.activeElement.value") == "2.40"
    expect(page.locator(".mark")).to_have_count(4)
    page.get_by_role("button", name="Make it again").press("Enter")
    expect_phase(page, "queued")
    (parent, wishes), = desk.retakes
    assert parent == "job-1"
    assert wishes == {"events": [{"time_s": 0.55, "strength": 0.95}, {"time_s": 1.2, "strength": 0.2},
                                 {"time_s": 2.4, "strength": 0.7}, {"time_s": 2.8, "strength": 0.2}]}
    desk.succeed()
    expect_phase(page, "succeeded")
    expect(page.locator("[data-events] li").first).to_contain_text("0:00.6")


def test_a_mark_can_be_dragged_and_the_changes_undone(open_page, stand_in, desk: Desk):
    page = open_result(open_page, stand_in, desk, options={"seed": 0, "category": None, "offset_ms": 100})
    page.get_by_role("tab", name="Adjust").click()
    before = page.get_by_label("Time of this sound, in seconds").first.input_value()
    mark = page.locator(".mark").first
    mark.scroll_into_view_if_needed()
    box, width = mark.bounding_box(), page.locator("[data-marks]").bounding_box()["width"]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + width / 6, box["y"] + 3, steps=4)
    page.mouse.up()
    after = float(page.get_by_label("Time of this sound, in seconds").first.input_value())
    assert after == pytest.approx(float(before) + 0.5, abs=0.05), "a sixth of three seconds"
    page.get_by_role("button", name="Undo the changes").click()
    assert page.get_by_label("Time of this sound, in seconds").first.input_value() == before == "0.40"
    expect(page.get_by_role("button", name="Make it again")).to_be_disabled()


def test_sounds_are_captions_too(open_page, stand_in, desk: Desk):
    page = open_result(open_page, stand_in, desk)
    cues = page.evaluate("""() => { const [track] = document.querySelector('video').textTracks; track.mode = 'hidden';
        return [track.kind, ...[...track.cues].map((cue) => [cue.startTime, cue.text])]; }""")
    assert cues[:2] == ["captions", [0.4, "[ball bounce, loud, sure]"]]
    assert len(cues) == 5


def test_options_are_sent(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    choose(page, silent_clip)
    page.click("summary")
    page.select_option("[data-category]", label="wood hit")
    page.fill("[data-seed]", "41")
    page.click("[data-action=generate]")
    expect_phase(page, "queued")
    assert (desk.posts[0]["category"], desk.posts[0]["seed"]) == ("wood_hit", "41")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_clip_can_be_dropped_and_pasted(open_page, stand_in, silent_clip, way):
    page = open_page(stand_in)
    page.evaluate("""([bytes, way]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'given.mp4', {type: 'video/mp4'}));
        const options = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(way === 'drop' ? new DragEvent('drop', {...options, dataTransfer: data})
                                                   : new ClipboardEvent('paste', {...options, clipboardData: data}));
    }""", [list(silent_clip.read_bytes()), way])
    expect_phase(page, "ready")
    expect(page.locator("[data-ready-name]")).to_have_text("given.mp4")


# ---- limits and errors -----------------------------------------------------------------------------------------------

def test_limits_are_told_before_a_file_is_chosen(open_page, stand_in):
    page = open_page(stand_in)
    expect(page.locator("#limits")).to_have_text(
        "MP4, MOV or WebM, up to 50 MB, 0.5 seconds to 2 minutes, no side longer than 4,096 pixels.")


@pytest.mark.parametrize(("flaw", "title"), [
    ("long", "This clip is too long: 0:03.0"), ("large", "This file is too large: "),
    ("wide", "The picture is too large: 480 × 270"), ("text", "This is not a video that can be used"),
    ("empty", "This file is empty")])
def test_a_file_that_breaks_a_limit_is_refused_before_a_byte_is_sent(
        open_page, stand_in, desk: Desk, silent_clip, tmp_path, flaw, title):
    clip = silent_clip
    if flaw == "text":
        clip = tmp_path / "fake.mp4"
        clip.write_text("#EXTM3U\n/etc/passwd\n")
    elif flaw == "empty":
        clip = tmp_path / "empty.mp4"
        clip.touch()
    else:
        desk.limits |= {"long": {"max_duration_s": 1.5}, "large": {"max_bytes": 1000},
                        "wide": {"max_long_side_px": 400}}[flaw]
    page = open_page(stand_in)
    page.set_input_files("[data-file]", clip)
    expect_phase(page, "refused")
    expect(page.locator("[data-refusal-title]")).to_contain_text(title)
    expect(page.locator("[data-refusal-hint]")).not_to_be_empty()
    assert focused(page).startswith(title)
    assert page.title().startswith("This clip does not fit")
    assert not any(line.startswith("POST") for line in desk.asked)
    if flaw != "long":
        return
    desk.limits["max_duration_s"] = 120
    page.reload()
    choose(page, silent_clip)  # and the way is open again


def test_a_known_problem_is_said_in_words(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("status of 422")
    page = open_page(stand_in)
    desk.refuse = (422, {"title": "Truncated", "status": 422, "code": "truncated", "detail": "The file ends early."})
    generate(page, silent_clip, "failed")
    expect(page.locator("[data-problem-title]")).to_have_text("This file is cut off")
    expect(page.locator("[data-problem-detail]")).to_have_text("The file ends early.")
    expect(page.locator("[data-problem-request]")).to_be_empty()
    page.click("[data-action=retry]")
    expect_phase(page, "queued")


def test_an_unknown_problem_is_shown_honestly_with_its_number(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.fail("moon_phase", "The moon is full.", "Wait for a new moon.", request_id="req-77")
    expect_phase(page, "failed")
    panel = page.locator(".problem:visible")
    expect(panel).to_contain_text("The moon is full.")
    expect(panel).to_contain_text("Wait for a new moon.")
    expect(panel).to_contain_text("req-77")


def test_a_proxy_error_page_is_an_error_that_helps(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("status of 502")
    page = open_page(stand_in)
    choose(page, silent_clip)
    desk.broken = True
    page.click("[data-action=generate]")
    expect_phase(page, "failed")
    expect(page.locator("[data-problem-detail]")).to_have_text("HTTP 502")
    desk.broken = False
    page.click("[data-action=retry]")
    expect_phase(page, "queued")


def test_offline_the_clip_is_kept_and_a_retry_is_the_same_request(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("ERR_INTERNET_DISCONNECTED")
    page = open_page(stand_in)
    choose(page, silent_clip)
    key = []
    page.on("request", lambda request: request.method == "POST" and key.append(request.headers["idempotency-key"]))
    page.context.set_offline(True)
    page.click("[data-action=generate]")
    expect_phase(page, "failed")
    expect(page.locator("[data-problem-title]")).to_have_text("The server cannot be reached")
    page.context.set_offline(False)
    page.click("[data-action=retry]")
    expect_phase(page, "queued")
    assert len(key) == 2
    assert set(key) == {desk.posts[0]["key"]}


# ---- nothing is lost -------------------------------------------------------------------------------------------------

def test_a_reload_in_mid_job_attaches_again(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    assert page.url.endswith("#job=job-1")
    desk.move("frames", 30, 75)
    expect_phase(page, "running")
    page.reload()
    expect_phase(page, "running")
    desk.move("mel", 100, 260)
    expect(page.locator("[aria-current=step]")).to_contain_text("100 of 260 slices")
    desk.succeed()
    expect_phase(page, "succeeded")


def test_a_lost_connection_is_told_and_caught_up(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed += ["status of 502"]
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.move("frames", 30, 75)
    expect_phase(page, "running")
    desk.broken = True
    expect(page.locator("[data-lost]")).to_be_visible(timeout=20_000)
    expect(page.locator("[data-status]")).to_have_text("Connection lost; still trying.")
    desk.broken = False
    desk.move("vocode", 100, 200)
    expect(page.locator("[data-lost]")).to_be_hidden(timeout=20_000)
    expect(page.locator("[aria-current=step]")).to_contain_text("Make it audible")
    desk.succeed()
    expect_phase(page, "succeeded")


def test_a_proxy_that_holds_the_stream_back_only_slows_the_page(open_page, stand_in, desk: Desk, silent_clip):
    desk.silent_streams = True
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed()
    expect_phase(page, "succeeded", 30)


def test_an_address_that_nobody_knows_says_so(open_page, stand_in, watch):
    watch.allowed.append("status of 404")
    page = open_page(f"{stand_in}/#job=nonsense")
    expect_phase(page, "missing")
    expect(page.locator("[data-problem-title]")).to_have_text("This clip is not here")
    expect(page.locator("[data-no-picture]")).to_be_hidden()
    page.get_by_role("button", name="New clip").click()
    expect_phase(page, "idle")
    assert "#" not in page.url


def test_my_clips_come_back_tomorrow_and_say_when_they_expired(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("status of 404")
    page = open_page(stand_in)
    generate(page, silent_clip)
    later = open_page(stand_in, context=page.context)
    expect(later.locator("[data-clip-list] li")).to_contain_text("bouncing ball.mp4")
    desk.succeed()
    expect_phase(page, "succeeded")
    expect(later.locator("[data-clip-list] li")).to_contain_text("done")  # the other tab heard of it
    later.locator("[data-clip-list] a").click()
    expect_phase(later, "succeeded")
    desk.jobs.clear()
    later.reload()
    expect_phase(later, "expired")
    expect(later.locator("[data-clip-list] li")).to_contain_text("expired")
    later.get_by_role("button", name="Forget bouncing ball.mp4").click()
    expect(later.locator("[data-clips]")).to_be_hidden()


def test_two_tabs_do_not_disturb_each_other(open_page, stand_in, desk: Desk, silent_clip, sounding_clip):
    one = open_page(stand_in)
    two = open_page(stand_in, context=one.context)
    generate(one, silent_clip)
    generate(two, sounding_clip)
    desk.put("job-1", state="running", progress={"stage": "mel", "step": 1, "total": 2, "fraction": 0.575})
    expect_phase(one, "running")
    expect_phase(two, "queued")
    desk.put("job-2", state="succeeded", report=report())
    expect_phase(two, "succeeded")
    expect_phase(one, "running")
    for tab in (one, two):
        expect(tab.locator("[data-clip-list] li")).to_have_count(2)


def test_it_is_told_how_long_a_clip_is_kept(open_page, stand_in, desk: Desk, silent_clip, watch):
    watch.allowed.append("status of 404")
    page = open_page(stand_in)
    choose(page, silent_clip)
    expect(page.locator("[data-plan]")).to_contain_text("It is kept for 1 day, then deleted.")
    page.click("[data-action=generate]")
    expect_phase(page, "queued")
    desk.succeed(expires_at="2026-05-05T10:20:30Z")
    expect_phase(page, "succeeded")
    expect(page.locator("[data-kept]")).to_contain_text("Kept until 5 May 2026")
    desk.jobs.clear()
    page.reload()
    expect_phase(page, "expired")
    expect(page.locator("[data-problem-detail]")).to_contain_text("It was kept until 5 May 2026")
    expect(page.locator("[data-clip-list] li")).to_contain_text("expired · 5 May 2026")


def test_back_leads_to_the_page_before(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed()
    expect_phase(page, "succeeded")
    page.go_back()
    expect_phase(page, "idle")
    page.go_forward()
    expect_phase(page, "succeeded")


# ---- cancel ----------------------------------------------------------------------------------------------------------

def test_cancel_while_it_runs(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.move("frames", 3, 75)
    expect_phase(page, "running")
    page.get_by_role("button", name="Cancel").click()
    expect_phase(page, "canceled")
    assert desk.canceled == ["job-1"]
    page.get_by_role("button", name="Try again").click()
    expect_phase(page, "queued")


def test_cancel_after_the_last_byte_cancels_the_job_that_comes_of_it(open_page, stand_in, desk: Desk, silent_clip):
    desk.hold = True
    page = open_page(stand_in)
    generate(page, silent_clip, "uploading")
    expect(page.locator("[data-work-line]")).to_have_text("Everything is sent; the server checks it.")
    page.get_by_role("button", name="Cancel").click()
    expect_phase(page, "canceling")
    desk.hold = False
    expect_phase(page, "canceled")
    assert desk.canceled == ["job-1"]


def test_cancel_while_bytes_go_out_sends_nothing_more(open_page, stand_in, desk: Desk, silent_clip, tmp_path, watch):
    big = tmp_path / "big.mp4"
    big.write_bytes(silent_clip.read_bytes() + b"\0\0\0\0" * 5_000_000)
    page = open_page(stand_in)
    choose(page, big)
    throttled = page.context.new_cdp_session(page)
    throttled.send("Network.emulateNetworkConditions",
                   {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2_000_000})
    page.click("[data-action=generate]")
    expect(page.locator("[data-work-line]")).to_contain_text(" of 20 MB")
    page.get_by_role("button", name="Cancel").click()
    expect_phase(page, "ready")
    assert desk.posts == []
    assert desk.jobs == {}


# ---- words -----------------------------------------------------------------------------------------------------------

def test_readers_hear_stage_changes_and_quarters_only(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    hear_everything(page)
    for step in range(1, 76, 2):
        desk.move("frames", step, 75)
        page.wait_for_timeout(25)
    for step in range(1, 40, 3):
        desk.move("features", step, 40)
        page.wait_for_timeout(25)
    expect(page.locator("[aria-current=step]")).to_contain_text("37 of 40")  # the one step past the half was heard
    desk.succeed()
    expect_phase(page, "succeeded")
    assert page.evaluate("window.spoken") == [
        "Watch the motion", "25% done", "Recognise what moves", "50% done", "Your clip has a sound"]


def test_a_name_from_people_is_text_and_nothing_else(open_page, stand_in, desk: Desk, silent_clip, tmp_path):
    evil = tmp_path / "<img src=x onerror=document.body.remove()>.mp4"
    evil.write_bytes(silent_clip.read_bytes())
    page = open_page(stand_in)
    generate(page, evil)
    desk.succeed(report=report(notes=("<b>note</b>",)) | {"category": "<i>kind</i>"})
    expect_phase(page, "succeeded")
    expect(page.locator("[data-result-line]")).to_contain_text("<img src=x onerror")
    expect(page.locator("[data-result-line]")).to_contain_text("<i>kind</i>")
    expect(page.locator("[data-notes]")).to_have_text("<b>note</b>")
    assert page.locator("main img:not([data-spectrogram]), main b:visible, main i").count() == 0


def test_no_event_is_said_and_not_hidden(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    generate(page, silent_clip)
    desk.succeed(report=report() | {"events": [], "category": None})
    expect_phase(page, "succeeded")
    expect(page.locator("[data-events-line]")).to_contain_text("quiet room tone")


def test_the_page_speaks_german(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in, locale="de-DE")
    expect(page.locator("h1")).to_contain_text("stummen Video")
    assert page.evaluate("document.documentElement.lang") == "de"
    generate(page, silent_clip)
    expect(page.locator("[data-work-title]")).to_have_text("Wartet, bis er dran ist")
    page.select_option("[data-language]", "en")
    expect(page.locator("[data-work-title]")).to_have_text("Waiting for its turn")
    page.reload()
    expect(page.locator("[data-action=cancel]")).to_have_text("Cancel")  # the choice is kept


def test_every_text_exists_in_every_language(open_page, stand_in):
    page = open_page(stand_in)
    english, german = page.evaluate("""async () => {
        const keys = (texts, path = '') => Object.entries(texts).flatMap(([name, value]) =>
            value && typeof value === 'object' ? keys(value, `${path}${name}.`) : [path + name]);
        const load = async (name) => keys((await import(`/js/texts/${name}.js`)).default);
        return [await load('en'), await load('de')];
    }""")
    static = set(re.findall(r'data-t(?:-label)?="(\w+)"', (PAGE / "index.html").read_text()))
    assert {key for key in german if not key.startswith("page.")} == set(english)
    assert {key.removeprefix("page.") for key in german if key.startswith("page.")} == static
    shipped = json.loads((PAGE.parents[1] / "model_store" / "s2s-small" / "bundle.json").read_text())
    assert {f"kinds.{kind}" for kind in shipped["categories"]} <= set(english), "what the shipped bundle can recognise"


def test_a_late_event_cannot_undo_an_end(open_page, stand_in):
    page = open_page(stand_in)
    phases = page.evaluate("""async () => {
        const { next, EMPTY } = await import('/js/job.js');
        const job = (state, stage, fraction) => ({ id: 'a', state, progress: stage ? { stage, fraction } : null });
        let state = next(EMPTY, { type: 'heard', job: job('running') });
        const seen = [];
        for (const event of [{ type: 'progressed', id: 'a', progress: { stage: 'mel', fraction: 0.5 } },
                             { type: 'heard', job: job('running', 'frames', 0.2) },
                             { type: 'progressed', id: 'b', progress: { stage: 'mux', fraction: 1 } }]) {
            state = next(state, event);
            seen.push(state.progress.fraction);
        }
        for (const event of [{ type: 'heard', job: job('succeeded') }, { type: 'heard', job: job('running') },
                             { type: 'progressed', id: 'a', progress: { stage: 'mel', fraction: 0.9 } },
                             { type: 'canceling' }, { type: 'heard', job: job('expired') }]) {
            state = next(state, event);
            seen.push(state.phase);
        }
        return seen;
    }""")
    assert phases == [0.5, 0.5, 0.5, "succeeded", "succeeded", "succeeded", "succeeded", "expired"]


# ---- looks -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(320, 640), (640, 430)], ids=["320 px", "200 % of 1280"])
def test_nothing_is_wider_than_the_window(open_page, stand_in, desk: Desk, tmp_path, silent_clip, size):
    clip = tmp_path / ("a_name_without_any_space_that_is_much_longer_than_the_screen_is_wide" * 2 + ".mp4")
    clip.write_bytes(silent_clip.read_bytes())
    page = open_page(stand_in, viewport={"width": size[0], "height": size[1]}, locale="de-DE")

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    fits()
    around, inside = page.locator(".screen").bounding_box(), page.locator(".samples").bounding_box()
    assert around["y"] <= page.locator(".picker").bounding_box()["y"], "the button is whole"
    assert inside["y"] + inside["height"] <= around["y"] + around["height"], "so are the sample clips"
    choose(page, clip)
    page.click("summary")
    fits()
    page.click("[data-action=generate]")
    expect_phase(page, "queued")
    desk.move("vocode", 33_075, 66_150)
    expect_phase(page, "running")
    fits()
    desk.succeed()
    expect_phase(page, "succeeded")
    fits()
    for tab in ("adjust", "share", "code"):
        page.click(f"#tab-{tab}")
        fits()


def test_right_to_left_mirrors_the_page_and_not_the_time_line(open_page, stand_in, desk: Desk):
    page = open_result(open_page, stand_in, desk)
    page.evaluate("document.documentElement.dir = 'rtl'")
    screen, panel = (page.locator(one).bounding_box() for one in (".stage", ".panel"))
    assert panel["x"] < screen["x"], "the page is mirrored"
    first, last = (page.locator(".mark").nth(i).bounding_box()["x"] for i in (0, 3))
    assert first < last, "time still runs to the right"
    page.get_by_role("tab", name="What you will hear").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Adjust")).to_be_focused()
    for tab in ("heard", "adjust", "share", "code"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_first_paint_comes_within_300_ms(open_page, stand_in):
    page = open_page(stand_in)
    paints = []
    for _ in range(6):
        page.reload()
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(paints) < 300, f"ms of each load: {paints}"  # the best: others may use the machine meanwhile


def test_the_page_weighs_less_than_250_kb(browser, stand_in):
    page = browser.new_page()
    sizes = {}
    page.on("response", lambda answer: sizes.__setitem__(answer.url, len(answer.body())))
    page.goto(stand_in)
    page.wait_for_load_state("networkidle")
    assert any(url.endswith(".woff2") for url in sizes)
    page.close()
    assert sum(sizes.values()) < 250_000, json.dumps(sizes, indent=1)


def test_a_long_clip_of_many_events_stays_readable(open_page, stand_in, desk: Desk, tmp_path):
    desk.result = make_clip(tmp_path / "long.mp4", 20.0, (160, 90), sound=True)
    page = open_page(f"{stand_in}/")
    desk.put("job-1", state="succeeded", report=report(20.0))
    page.goto(f"{stand_in}/#job=job-1")
    expect_phase(page, "succeeded")
    expect(page.locator("[data-events] li")).to_have_count(12)
    page.get_by_role("button", name="Show all 25").click()
    expect(page.locator("[data-events] li")).to_have_count(25)
    assert page.evaluate("document.activeElement.dataset.at"), "focus goes to the first one that came"


def test_a_sample_clip_is_one_press_away(open_page, stand_in, desk: Desk):
    page = open_page(stand_in)
    page.get_by_role("button", name="a ball", exact=True).click()
    page.click("[data-action=generate]")
    expect_phase(page, "queued")
    assert desk.posts[0]["name"] == "ball.mp4"
    assert desk.posts[0]["bytes"] == (PAGE / "samples" / "ball.mp4").stat().st_size


def test_chrome_is_taken_before_a_chromium_that_may_play_no_h264(monkeypatch, tmp_path):
    assert [path.name for path in chromium.SYSTEM] == ["google-chrome", "chromium"]
    chrome, other = (tmp_path / path.name for path in chromium.SYSTEM)
    monkeypatch.setattr(chromium, "SYSTEM", (chrome, other))
    assert chromium.system_browser() is None
    other.touch()
    assert chromium.system_browser() == other
    chrome.touch()
    assert chromium.system_browser() == chrome
