"""Files that are evaluated: their sound, read with little memory."""

import tracemalloc

import pytest
from tests.clips import film

from s2s.evaluation.files import sound_of


def test_a_large_file_is_not_read_into_memory_to_be_recognised(tmp_path):
    path = film(tmp_path / "clip.mp4", seconds=1, rate="25", sound=True)
    with path.open("ab") as file:  # room at the end, as some recorders leave it: 200 MB that take no disk
        file.write((200_000_000).to_bytes(4, "big") + b"free")
        file.truncate(file.tell() + 200_000_000 - 8)
    tracemalloc.start()
    sound = sound_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sound) / 22_050 == pytest.approx(1.0, abs=0.1)
    assert peak < 50_000_000
