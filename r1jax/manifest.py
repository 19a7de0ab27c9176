"""Checksums of a checkpoint's files, so that a torn or corrupted one is never restored.

Orbax renames a checkpoint into place when it is whole; what a disk or a copy does to it later it
does not see, and of a flipped byte in some files it says nothing.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from r1jax.files import write_whole

NAME = "manifest.json"
# Of Orbax, changed when it renames the folder: which handlers wrote it, and when.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")

State = Literal["whole", "damaged", "unchecked"]


def write(folder: Path) -> None:
    """FOLDER/manifest.json: size and SHA-256 of every file in it, and of what it says itself."""
    files = _files(folder)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = dict(zip(files, pool.map(lambda name: _sum(folder / name), files), strict=True))
    told = {"sha256": _sum_of(sums), "files": sums}
    write_whole(folder / NAME, json.dumps(told, indent=1) + "\n")


def damage(folder: Path) -> tuple[State, str]:
    """("whole", ""), ("damaged", what is wrong), or without a manifest ("unchecked", "")."""
    try:
        said = json.loads((folder / NAME).read_text())
        told = {str(name): (int(size), str(sha)) for name, (size, sha) in said["files"].items()}
    except FileNotFoundError:
        return "unchecked", ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return "damaged", f"{NAME} cannot be read: {type(error).__name__}"
    # Before what it says of the others is believed. The first ones had no sum of their own.
    if list(said) != ["files"] and said != {"sha256": _sum_of(told), "files": said["files"]}:
        return "damaged", f"{NAME} has another checksum"
    absent = [name for name in told if not (folder / name).is_file()]
    if absent:
        return "damaged", f"{absent[0]} is missing"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _sum_or_none(folder / name), told)
        for (name, want), got in zip(told.items(), found, strict=True):
            if got is None:
                return "damaged", f"{name} cannot be read"
            if got != want:
                how = "another checksum" if got[0] == want[0] else f"{got[0]} bytes of {want[0]}"
                return "damaged", f"{name} has {how}"
    # Not in the manifest, and Orbax reads it first.
    try:
        json.loads((folder / LATER[0]).read_text())
    except (OSError, ValueError):
        return "damaged", f"{LATER[0]} cannot be read"
    return "whole", ""


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(name) for name in found if str(name) not in (*LATER, NAME, f"{NAME}.tmp")]


def _sum_of(sums: dict[str, tuple[int, str]]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _sum_or_none(path: Path) -> tuple[int, str] | None:
    try:
        return _sum(path)
    except OSError:
        return None
