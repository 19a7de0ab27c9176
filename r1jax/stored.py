"""Where a run's checkpoints are: in its folder, in another one, or in a bucket.

Orbax writes gs:// itself: arrays through TensorStore's own driver, the rest through gcsfs. A bucket
renames no folders, so a checkpoint is written where it stays, and is complete once it has
`commit_success.txt`. s3:// it does not write: Orbax 0.12 hands TensorStore, which could, a path of
this machine's, and refuses it ("Checkpoint path should be absolute").
"""

import contextlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from r1jax.checks import InputError, check

NAME = "checkpoints"
COMMIT = "commit_success.txt"


class Unreachable(InputError):
    """A bucket that does not answer as it should now: the same command may do later."""


def place(told: str, out: Path) -> epath.Path:
    """The checkpoints' folder, of a configuration's `checkpoint_to`. Raises InputError for what
    Orbax does not write, and for a folder that depends on where one is."""
    if not told:
        return absolute(out / NAME)
    scheme, sign, rest = told.partition("://")
    flag = f"--checkpoint-to={told}"
    check(
        not sign or scheme == "gs",
        f"{flag}: checkpoints go to folders and to gs://; {scheme}:// is nothing that Orbax writes",
    )
    check(not sign or bool(rest.split("/")[0]), f"{flag}: expected gs://BUCKET/PATH")
    check(bool(sign) or Path(told).is_absolute(), f"{flag}: expected a folder's whole path")
    return absolute(f"{told.rstrip('/')}/{NAME}")


def absolute(path: epath.PathLike) -> epath.Path:
    """As epath reads it. Raises InputError for a bucket without what reads it."""
    if not in_bucket(path):
        return epath.Path(path).resolve()
    check(importlib.util.find_spec("gcsfs") is not None, f"{path}: pip install 'r1jax[gcs]'")
    import fsspec

    # What TensorStore and other processes write is not in a list that gcsfs keeps.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises all that it logs
    return epath.Path(path)


def in_bucket(path: epath.PathLike) -> bool:
    return "://" in str(path)


def of(run: Path) -> epath.Path:
    """Of a run's folder, as its configuration says."""
    try:
        told = json.loads((run / "config.json").read_text())["checkpoint_to"]
    except (OSError, ValueError, KeyError, TypeError):  # put together by hand, or an older one
        told = ""
    return place(told, run)


def steps(folder: epath.Path) -> list[int]:
    """Of the checkpoints in it that are complete; [] where there is no such folder."""
    with reaching(folder):
        try:
            there = [path for path in folder.iterdir() if path.name.isdigit()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(path.name) for path in there if ocp.utils.is_checkpoint_finalized(path))


def remove(folder: epath.Path) -> None:
    """A checkpoint, so that a kill leaves no half of one that looks complete."""
    with reaching(folder):
        if in_bucket(folder):
            (folder / COMMIT).unlink(missing_ok=True)
        else:
            folder = folder.rename(folder.with_name(f"{folder.name}.orbax-checkpoint-tmp-removed"))
        folder.rmtree()


@contextlib.contextmanager
def reaching(folder: epath.PathLike) -> Iterator[None]:
    """Around what reads or writes `folder`: of a bucket, Unreachable where it fails, and
    InputError where it would fail again. Of a disk, the error as it is."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # gcsfs, aiohttp, google.auth and TensorStore have no common one
        if not in_bucket(folder):
            raise
        said = " ".join(str(error).split())[:300]
        line = f"{folder} cannot be read or written: {type(error).__name__}: {said}"
        code = str(getattr(error, "code", getattr(error, "status", "")))
        lasts = isinstance(error, (FileNotFoundError, PermissionError)) or code in LASTING
        raise InputError(line) if lasts else Unreachable(line) from error


LASTING = ("400", "401", "403", "404")  # of HTTP
