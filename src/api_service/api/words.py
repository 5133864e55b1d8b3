"""The generated sound in words, for people who cannot see the picture or hear the sound."""

from __future__ import annotations

EVENT_OF_KIND = {
    "drum": "drum hit",
    "hand_drum": "hand drum hit",
    "wood": "knock on wood",
    "metal": "clank of metal",
    "glass": "clink of glass",
    "ball": "bounce of a ball",
    "bell": "ring of a bell",
    "typing": "key press",
    "water": "splash of water",
    "explosion": "explosion",
}
LOUD, MEDIUM = 0.66, 0.33  # strengths relative to the loudest event of the clip


def describe_sound(report: dict) -> dict:
    """A job's report -> {"text": all of it, "events": [{"time_s": 2.1, "text": "0:02.1 drum hit, loud"}, ...]}"""
    events = [
        {
            "time_s": event["time_s"],
            "text": f"{clock(event['time_s'])} {_event(event['kind'])}, {_loudness(event['strength'])}",
        }
        for event in report["events"]
    ]
    count = {0: "No sound stands out", 1: "1 sound"}.get(len(events), f"{len(events)} sounds")
    first = f"{count} in {report['duration_s']:.1f} seconds"
    if report.get("category"):
        first += f", made as {report['category'].replace('_', ' ')}"
    lines = [first + (":" if events else "."), *(event["text"] for event in events), *report.get("notes", [])]
    return {"text": "\n".join(lines), "events": events}


def clock(time_s: float) -> str:
    """62.07 -> "1:02.1"."""
    tenths = round(time_s * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _event(kind: str) -> str:
    return EVENT_OF_KIND.get(kind, kind.replace("_", " "))


def _loudness(strength: float) -> str:
    return "loud" if strength >= LOUD else "medium" if strength >= MEDIUM else "quiet"
