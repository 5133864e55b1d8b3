"""A folder here and the same folder in storage: `gs://bucket/path`, `s3://bucket/path`, `file:///path` or a path."""

from __future__ import annotations

import re
from pathlib import Path

from s2s.errors import InputError

# Made once under their name, so one of the same size is the same file: media and caches that are named by their clip,
# weights that are named by their hash. All else (checkpoints, the best weights so far, marks) is always copied.
FIXED = re.compile(
    r".*\.(mp4|flac|npz|npy|pkl|pth)|(.*/)?(seen|shard-\d+)/[^/]+\.safetensors|.*-[0-9a-f]{8}\.safetensors"
)
REMADE = re.compile(r"(.*/)?sounds/[^/]+")  # of a report: another bundle's have the same names


def is_remote(place: str) -> bool:
    return "://" in place and not place.startswith("file://")


def local_path(place: str) -> Path:
    return Path(place.removeprefix("file://"))


def pull(place: str, folder: Path) -> int:
    """Brings what is new at `place` into `folder`; how many files. Raises InputError for an address nobody knows."""
    import obstore

    store, count = _store(place), 0
    for batch in store.list():
        for entry in batch:
            path = folder / entry["path"]
            if _fixed(entry["path"]) and path.exists() and path.stat().st_size == entry["size"]:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            with open(part, "wb") as file:
                for chunk in obstore.get(store, entry["path"]).stream():
                    file.write(chunk)
            part.replace(path)
            count += 1
    return count


def push(folder: Path, place: str) -> int:
    """Brings what is new in `folder` to `place`; how many files.

    In an order that may be cut off anywhere: what names or marks a file comes after it.
    """
    import obstore

    store = _store(place)
    there = {entry["path"]: entry["size"] for batch in store.list() for entry in batch}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".part", ".partial")]
    count = 0
    for path in sorted(files, key=_turn):
        name = path.relative_to(folder).as_posix()
        if _fixed(name) and there.get(name) == path.stat().st_size:
            continue
        obstore.put(store, name, path)
        count += 1
    return count


def fetch(place: str, path: Path) -> Path:
    """One file: a local one as it is, another one brought to `path`."""
    if not is_remote(place):
        return local_path(place)
    import obstore

    parent, _, name = place.rpartition("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(obstore.get(_store(parent), name).bytes()))
    return path


def _fixed(name: str) -> bool:
    return bool(FIXED.fullmatch(name)) and not REMADE.fullmatch(name)


def _turn(path: Path) -> tuple[int, int]:
    """Weights and media; what names them, inner folders first; checkpoints, which know the best weights; marks."""
    turns = {".json": 1, ".jsonl": 1, ".sqlite": 1, ".pt": 2, "": 3}
    return turns.get(path.suffix, 0), -len(path.parts)


def _store(place: str):
    from obstore.store import LocalStore, from_url

    if not is_remote(place):
        local_path(place).mkdir(parents=True, exist_ok=True)
        return LocalStore(local_path(place))
    try:
        return from_url(place)
    except Exception as exc:  # obstore passes on whatever its parsers raise
        raise InputError(
            f"{place!r} is no place that can be reached: {exc}", code="bad_request", hint="Use gs://, s3:// or a path."
        ) from exc
