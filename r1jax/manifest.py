"""Checksums of a checkpoint's files, so that a torn or corrupted one is never restored.

Orbax renames a checkpoint into place when it is whole; what a disk or a copy does to it later it
does not see, and of a flipped byte in some files it says nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from etils import epath

from r1jax.files import write_whole
from r1jax.stored import in_bucket, reaching

NAME = "manifest.json"
# Of Orbax, changed when it renames the folder: which handlers wrote it, and when.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")

State = Literal["whole", "damaged", "unchecked"]


def write(folder: epath.PathLike) -> None:
    """FOLDER/manifest.json: size and SHA-256 of every file in it, and of what it says itself."""
    folder = epath.Path(folder)
    with reaching(folder):
        _write(folder)


def _write(folder: epath.Path) -> None:
    files = _files(folder)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = dict(zip(files, pool.map(lambda name: _sum(folder / name), files), strict=True))
    told = {"sha256": _sum_of(sums), "files": sums}
    text = json.dumps(told, indent=1) + "\n"
    if in_bucket(folder):  # what is put there is whole, or not there
        (folder / NAME).write_text(text)
    else:
        write_whole(Path(folder / NAME), text)


def damage(folder: epath.PathLike) -> tuple[State, str]:
    """("whole", ""), ("damaged", what is wrong), or without a manifest ("unchecked", ""). Raises
    stored.Unreachable for a bucket that does not answer: that says nothing of what it holds."""
    folder = epath.Path(folder)
    with reaching(folder):
        return _damage(folder)


def _damage(folder: epath.Path) -> tuple[State, str]:
    try:
        said = json.loads((folder / NAME).read_text())
        told = {str(name): (int(size), str(sha)) for name, (size, sha) in said["files"].items()}
    except FileNotFoundError:
        return "unchecked", ""
    except (_unread(folder), ValueError, KeyError, TypeError, AttributeError) as error:
        return "damaged", f"{NAME} cannot be read: {type(error).__name__}"
    # Before what it says of the others is believed. The first ones had no sum of their own.
    if list(said) != ["files"] and said != {"sha256": _sum_of(told), "files": said["files"]}:
        return "damaged", f"{NAME} has another checksum"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _sum_or_why(folder / name), told)
        for (name, want), got in zip(told.items(), found, strict=True):
            if isinstance(got, str):
                return "damaged", f"{name} {got}"
            if got != want:
                how = "another checksum" if got[0] == want[0] else f"{got[0]} bytes of {want[0]}"
                return "damaged", f"{name} has {how}"
    # Not in the manifest, and Orbax reads it first.
    try:
        json.loads((folder / LATER[0]).read_text())
    except (_unread(folder), ValueError):
        return "damaged", f"{LATER[0]} cannot be read"
    return "whole", ""


def files_in(folder: epath.Path) -> Iterator[epath.Path]:
    """All, also in the folders inside."""
    for path in sorted(folder.iterdir()):
        yield from files_in(path) if path.is_dir() else [path]


def _files(folder: epath.Path) -> list[str]:
    found = (str(path.relative_to(folder)) for path in files_in(folder))
    return [name for name in found if name not in (*LATER, NAME, f"{NAME}.tmp")]


def _sum_of(sums: dict[str, tuple[int, str]]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _sum(path: epath.Path) -> tuple[int, str]:
    size, found = 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            size += len(block)
            found.update(block)
    return size, found.hexdigest()


def _sum_or_why(path: epath.Path) -> tuple[int, str] | str:
    """Or what is wrong with it."""
    try:
        return _sum(path)
    except FileNotFoundError:
        return "is missing"
    except _unread(path):
        return "cannot be read"


def _unread(path: epath.Path) -> type[OSError]:
    """What a file that is damaged raises: on a disk all that the system says."""
    return FileNotFoundError if in_bucket(path) else OSError
