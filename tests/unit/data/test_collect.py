"""Collection: dead links are told, nothing is done twice, memory is flat, a killed run ends with the same bytes."""

import functools
import http.server
import itertools
import json
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from tests.clips import film

from s2s.config import settings
from s2s.data import stages
from s2s.data.collect import Downloader, Unfetched, Wanted, collect, cut_raw, read_rows, read_vas, read_vggsound
from s2s.errors import InputError
from s2s.media.probe import probe


def csv_of(path: Path, n: int) -> Path:
    path.write_text(
        "".join(
            f'vid{i:06d},{i % 300},"people marching, slowly",{"test" if i % 5 == 0 else "train"}\n' for i in range(n)
        )
    )
    return path


def every_third_is_gone(address: str, folder: Path) -> tuple[Path, str]:
    if int(address[-6:]) % 3 == 0:
        raise Unfetched("http_404", dead=True)
    return folder / "source.mp4", "CC-BY"


def cut_nothing(video: Path, target: Path, start_s: float, duration_s: float) -> float:
    target.write_bytes(b"clip")
    return duration_s


def cost_of(csv: Path, out: Path) -> tuple[int, float]:
    """Bytes at the peak, CPU seconds."""
    began_s = time.process_time()
    tracemalloc.start()
    collect(read_vggsound(csv, "http://here/{id}"), out, fetch=every_third_is_gone, cut=cut_nothing, workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, time.process_time() - began_s


@pytest.mark.timeout(600)
def test_ten_thousand_rows_are_collected_in_flat_memory_and_the_manifest_is_right(tmp_path):
    # In a process of its own, because pytest keeps every log record.
    with multiprocessing.get_context("spawn").Pool(1) as child:
        few, _ = child.apply(cost_of, (csv_of(tmp_path / "few.csv", 1000), tmp_path / "few"))
        many, cpu_s = child.apply(cost_of, (csv_of(tmp_path / "many.csv", 10_000), tmp_path / "many"))
    assert many < few + 1_000_000, (few, many)
    print(f"\n10,000 rows: {cpu_s:.1f} CPU seconds, {many / 1e6:.1f} MB at the peak")
    assert cpu_s < 60
    rows = list(read_rows(tmp_path / "many"))
    assert [row.id for row in rows] == [f"vid{i:06d}_{i % 300:06d}" for i in range(10_000)]
    assert all((row.state == "dead") == (i % 3 == 0) for i, row in enumerate(rows))
    assert rows[1].licence == "CC-BY"
    assert rows[1].label == "people marching, slowly"
    assert (rows[0].reason, rows[5].split, rows[6].split) == ("http_404", "test", "train")


def test_what_could_not_be_reached_is_tried_again_and_what_is_dead_or_done_is_not(tmp_path):
    asked = []

    def fetch(address, folder):
        asked.append(address)
        if address == "http://x/c" and len(asked) < 4:
            raise Unfetched("unreachable", dead=False)
        if address == "http://x/b":
            raise Unfetched("http_404", dead=True)
        return folder / "source.mp4", "unknown"

    def run():
        wanted = (Wanted(name, f"http://x/{name}", 0.0, "drum", "train") for name in "abc")
        return collect(wanted, tmp_path, fetch=fetch, cut=cut_nothing, workers=1)

    assert run() == {"ok": 1, "dead": 1, "failed": 1}
    assert run() == {"ok": 2, "dead": 1}
    assert asked == ["http://x/a", "http://x/b", "http://x/c", "http://x/c"]


def test_a_source_may_be_much_longer_than_what_the_command_line_takes(tmp_path):
    hour = film(tmp_path / "long.mp4", seconds=settings().cli_max_duration_s + 60, rate="2", size="64x36", sound=True)
    assert cut_raw(hour, tmp_path / "clip.mp4", 630.0, 10.0) == pytest.approx(10.0)
    assert probe(tmp_path / "clip.mp4", settings().cli_limits).duration_s == pytest.approx(10.0)


@pytest.mark.parametrize("before", ["failed", "dead"])  # dead: as older versions wrote it
def test_what_a_limit_refused_is_tried_again(tmp_path, before):
    def refuse(*_):
        raise InputError("The clip is too long.", code="too_long")

    def run(cut):
        wanted = iter([Wanted("a", "/a.mp4", 0.0, "drum", "train")])
        return collect(wanted, tmp_path, fetch=Downloader(), cut=cut)

    assert run(refuse) == {"failed": 1}
    assert next(read_rows(tmp_path)).reason == "too_long"
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as journal:
        journal.execute("UPDATE rows SET state = ?, json = replace(json, '\"failed\"', ?)", (before, f'"{before}"'))
    assert run(cut_nothing) == {"ok": 1}


def test_a_row_says_what_the_list_says_now_and_another_source_or_start_is_collected_again(tmp_path):
    asked = []

    def fetch(address, folder):
        asked.append(address)
        return folder / "source.mp4", "unknown"

    def cut(video, target, start_s, duration_s):
        target.write_bytes(f"{asked[-1]} from {start_s}".encode())
        return duration_s

    def run(out, **changes):
        one = Wanted("a", "http://x/a", 0.0, "drum", "train")._replace(**changes)
        collect(iter([one]), out, fetch=fetch, cut=cut, workers=1)
        files = ("collected.jsonl", "clips/a.mp4")
        return [(out / name).read_bytes() for name in files]

    for changes, fetched in (({}, 1), ({"label": "dog"}, 0), ({"split": "test"}, 0), ({"start_s": 4.0}, 1)):
        asked.clear()
        changed = run(tmp_path / "changed", **changes)
        assert len(asked) == fetched, changes
        assert changed == run(tmp_path / f"new-{len(list(tmp_path.iterdir()))}", **changes)
    asked.clear()
    assert run(tmp_path / "changed", source="http://x/b")[1] == b"http://x/b from 0.0"


def test_a_clip_whose_new_source_does_not_come_is_not_the_one_of_the_old_source(tmp_path):
    def fetch(address, folder):
        if address == "http://x/b":
            raise Unfetched("http_404", dead=True)
        return folder / "source.mp4", "unknown"

    for source, counts in (("http://x/a", {"ok": 1}), ("http://x/b", {"dead": 1}), ("http://x/a", {"ok": 1})):
        wanted = iter([Wanted("a", source, 0.0, "drum", "train")])
        assert collect(wanted, tmp_path, fetch=fetch, cut=cut_nothing) == counts
        assert (tmp_path / "clips" / "a.mp4").exists() == ("ok" in counts)


def test_a_list_that_names_a_clip_twice_or_holds_a_bad_line_is_refused_by_name(tmp_path):
    twice = (Wanted("a", "http://x/a", 0.0, "drum", "train") for _ in range(2))
    with pytest.raises(InputError, match="twice"):
        collect(twice, tmp_path / "out", fetch=every_third_is_gone, cut=cut_nothing)
    bad = tmp_path / "bad.csv"
    bad.write_text("abc,3,drum,train\nabc,four,drum,train\n")
    with pytest.raises(InputError, match="Line 2"):
        list(read_vggsound(bad))


def test_both_layouts_of_vas_are_read_with_the_published_split(tmp_path):
    for folder in ("videos/hammer", "dog/videos"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(130):
            (tmp_path / folder / f"video_{i:05d}.mp4").touch()
    found = list(read_vas(tmp_path))
    test = {label: sum(one.split == "test" and one.label == label for one in found) for label in ("dog", "hammer")}
    assert test == {"dog": 128, "hammer": 64}
    assert next(one for one in found if one.label == "dog").split == "train"
    assert len(list(read_vas(tmp_path, ["dog"]))) == 130


class Site(http.server.SimpleHTTPRequestHandler):
    busy = itertools.count()

    def do_GET(self):
        if self.path.startswith("/busy") and next(self.busy) < 2:
            self.send_error(503)
        else:
            super().do_GET()

    do_HEAD = do_GET  # as simple servers do

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    film(folder / "good.mp4", seconds=3, rate="25", sound=True)
    (folder / "busy.mp4").write_bytes((folder / "good.mp4").read_bytes())
    (folder / "damaged.mp4").write_bytes((folder / "good.mp4").read_bytes()[:5000])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_real_downloads_retry_a_busy_server_and_tell_dead_from_damaged(site, tmp_path):
    wanted = (Wanted(name, f"{site}/{name}.mp4", 1.0, "drum", "train") for name in ("good", "busy", "damaged", "gone"))
    fetch = Downloader(per_minute=6000, pause_s=0.01, tries=4)
    counts = collect(wanted, tmp_path / "raw", fetch=fetch, workers=1)
    rows = {row.id: row for row in read_rows(tmp_path / "raw")}
    assert counts == {"ok": 2, "dead": 2}
    assert rows["gone"].reason == "http_404"
    assert rows["damaged"].state == "dead"
    assert rows["good"].duration_s == pytest.approx(2.0, abs=0.05)
    assert {path.stem for path in (tmp_path / "raw" / "clips").iterdir()} == {"good", "busy"}


def test_downloads_start_no_faster_than_their_pace():
    fetch, starts, begun = Downloader(per_minute=600), [], time.monotonic()
    fetch._download = lambda address, folder: starts.append(time.monotonic()) or (folder, "")
    threads = [threading.Thread(target=fetch, args=("http://x", Path())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) == 4
    assert all(at - begun > 0.1 * i - 1e-3 for i, at in enumerate(sorted(starts)))  # threads wake late, never early


def vas_of(tmp_path: Path) -> Path:
    folder = tmp_path / "vas" / "videos" / "hammer"
    folder.mkdir(parents=True)
    for i in range(8):
        film(folder / f"video_{i:05d}.mp4", seconds=2 + i / 10, rate="25", sound=True)
    return tmp_path / "vas"


@pytest.mark.timeout(600)
def test_a_killed_collection_goes_on_and_ends_with_the_same_bytes(tmp_path):
    vas = vas_of(tmp_path)
    command = [sys.executable, "-m", "s2s.cli", "data", "collect", "--vas", str(vas), "--workers", "1", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((killed / "clips").glob("*.mp4")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "collected.jsonl").exists()
    for out in (killed, whole):
        done = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True)
        assert json.loads(done.stdout.splitlines()[-1])["ok"] == 8
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.suffix in (".mp4", ".jsonl")]
    assert len(names) == 9
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


def test_the_stage_of_the_workflow_collects_a_folder_of_vas_too(tmp_path: Path):
    made = stages.collect(str(tmp_path / "root"), str(vas_of(tmp_path)), workers=1)
    rows = list(read_rows(tmp_path / "root" / "raw"))
    assert made.facts["ok"] == len(rows) > 0
    assert {row.label for row in rows} == {"hammer"}
    with pytest.raises(InputError, match="no VAS videos"):
        stages.collect(str(tmp_path / "other"), str(tmp_path / "nowhere"))


def test_videos_of_a_folder_have_the_licence_that_the_caller_names(tmp_path):
    video = tmp_path / "vas" / "videos" / "hammer" / "video_00001.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
    collect(read_vas(tmp_path / "vas"), tmp_path / "raw", fetch=Downloader(licence="CC-BY-4.0"), cut=cut_nothing)
    (row,) = read_rows(tmp_path / "raw")
    assert (row.state, row.licence) == ("ok", "CC-BY-4.0")
