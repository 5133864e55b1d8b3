"""axe-core (WCAG 2.2 A and AA) finds nothing in any state, light or dark; and the tree that readers get makes sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from stand_in import Desk

pytestmark = pytest.mark.browser
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {"runOnly": {"type": "tag", "values": TAGS}}


def check(page: Page, state: str) -> None:
    page.wait_for_timeout(600)  # transitions
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"


def walk(page: Page, desk: Desk, clip: Path, bad: Path, at: Callable[[str], None]) -> None:
    """Through every state of the page."""

    def phase(name: str) -> None:
        expect(page.locator("body")).to_have_attribute("data-phase", name)

    at("idle")
    page.set_input_files("[data-file]", bad)
    phase("refused")
    at("refused")
    page.set_input_files("[data-file]", clip)
    phase("ready")
    page.click("summary")
    at("ready")
    desk.upload_delay_s = 3
    page.click("[data-action=generate]")
    phase("uploading")
    at("uploading")
    phase("queued")
    at("queued")
    desk.upload_delay_s = 0
    desk.move("frames", 30, 75)
    phase("running")
    at("running")
    desk.succeed()
    phase("succeeded")
    at("succeeded")
    for tab in ("adjust", "share", "code"):
        page.click(f"#tab-{tab}")
        if tab == "share":
            page.click("[data-action=share]")
            page.locator("[data-link]:not([hidden])").wait_for()
        at(tab)
    for end in ("canceled", "failed"):
        page.click("[data-action=another-take]" if end == "canceled" else "[data-action=retry]")
        phase("queued")
        if end == "failed":
            desk.fail("internal")
        else:
            page.click("[data-action=cancel]")
        phase(end)
        at(end)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.timeout(300)
def test_axe_finds_nothing_in_any_state(open_page, stand_in, desk: Desk, silent_clip, tmp_path, scheme, width):
    bad = tmp_path / "notes.mp4"
    bad.write_text("not a video at all")
    page = open_page(stand_in, color_scheme=scheme, viewport={"width": width, "height": 800})
    seen = []

    def at(state: str) -> None:
        check(page, f"{state}, {scheme}, {width} px")
        seen.append(state)

    walk(page, desk, silent_clip, bad, at)
    assert len(seen) == 12


def test_readers_get_a_tree_that_tells_the_story(open_page, stand_in, desk: Desk, silent_clip):
    page = open_page(stand_in)
    expect(page.locator("main")).to_match_aria_snapshot("""
      - main:
        - heading "Give a silent video its sound." [level=1]
        - paragraph
        - region "Workbench":
          - button "Choose a video"
    """)
    page.set_input_files("[data-file]", silent_clip)
    page.click("[data-action=generate]")
    expect(page.locator("body")).to_have_attribute("data-phase", "queued")
    desk.move("mel", 100, 260)
    expect(page.locator(".panel")).to_match_aria_snapshot("""
      - heading "Making the sound" [level=2]
      - progressbar "Progress"
      - list:
        - listitem: "Check the clip (done)"
        - listitem: "Watch the motion (done)"
        - listitem: "Recognise what moves (done)"
        - listitem: "Find the moments (done)"
        - listitem: "Sketch the sound (now) 100 of 260 slices"
        - listitem: "Make it audible (to come)"
        - listitem: "Join sound and picture (to come)"
      - paragraph:
        - button "Cancel"
    """)
    desk.succeed()
    expect(page.locator("main")).to_match_aria_snapshot("""
      - heading "Your clip has a sound" [level=2]
      - paragraph
      - group "Listen":
        - radio "With sound" [checked]
        - radio "Without"
      - paragraph:
        - link "Download video"
        - link "Sound only"
      - paragraph:
        - button "Another take"
        - button "New clip"
    """)
    expect(page.get_by_role("region", name="About this sound")).to_match_aria_snapshot("""
      - tablist "About this sound":
        - tab "What you will hear" [selected]
        - tab "Adjust"
        - tab "Share"
        - tab "Code"
      - tabpanel "What you will hear":
        - paragraph: "/4 sounds/"
        - list:
          - listitem:
            - 'button "Play from 0:00.4: ball bounce, loud, sure"'
    """)
    page.get_by_role("tab", name="Adjust").click()
    expect(page.get_by_role("tabpanel")).to_match_aria_snapshot("""
      - tabpanel "Adjust":
        - heading "All of the sound" [level=3]
        - slider "Earlier or later"
        - slider "Softer or louder"
        - heading "Its moments" [level=3]
        - list:
          - listitem:
            - spinbutton "Time of this sound, in seconds"
            - combobox "Loudness of the sound at 0:00.4"
            - button "Play from 0:00.4"
            - button "Remove the sound at 0:00.4"
        - button "Add one at 0:00.0"
        - paragraph:
          - button "Make it again with these changes" [disabled]
          - button "Undo the changes" [disabled]
    """)


@pytest.mark.parametrize("look", [{"forced_colors": "active"}, {"reduced_motion": "reduce"}])
def test_forced_colours_and_reduced_motion_keep_the_path_whole(open_page, stand_in, desk: Desk, silent_clip, look):
    page = open_page(stand_in, **look)
    page.set_input_files("[data-file]", silent_clip)
    page.click("[data-action=generate]")
    expect(page.locator("body")).to_have_attribute("data-phase", "queued")
    desk.move("mel", 100, 260)
    expect(page.locator("body")).to_have_attribute("data-phase", "running")
    if "reduced_motion" in look:
        assert page.evaluate("document.getAnimations().length") == 0
    else:
        page.wait_for_function("""() => {  // what is done can be told from what is not, once the colour has changed
            const [done, toCome] = ['.bar.lit', '.bar:not(.lit)'].map((one) => document.querySelector(one));
            return done && toCome && getComputedStyle(done).stroke !== getComputedStyle(toCome).stroke;
        }""")
    desk.succeed()
    expect(page.locator("body")).to_have_attribute("data-phase", "succeeded")
