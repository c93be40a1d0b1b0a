"""Writing files whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from perfsim.errors import Faults, InputError

__all__ = ["new_folder", "replace_file"]


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a stream to write to; `path` is there, or is replaced, once all is written, and never before."""
    with _workplace(path, path.parent) as made:
        if path.is_dir():
            raise InputError.of("path", str(path), "is a folder", "give the name of a file")
        new = made / "new"
        with _writing(path), new.open("wb") as stream:
            yield stream
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            new.replace(path)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder to write in; its contents move to `folder` once all is written, and never before."""
    if not isinstance(folder, str | os.PathLike):
        raise InputError.of("folder", folder, "must be a path", "give the name of a folder")
    target = Path(folder)
    with _writing(target):
        if target.exists() and not target.is_dir():
            raise InputError.of("folder", str(target), "is a file", "give the name of a folder, or move the file away")
    with _workplace(target, target) as made:
        new = made / "new"
        new.mkdir()
        yield new
        with _writing(target):
            _merge(new, target)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tell of what the file system refuses to do as of a fault of the place that was given."""
    try:
        yield
    except OSError as error:
        way_out = "give a place that you may write to"
        raise InputError.of("path", str(target), f"cannot be written to ({error.strerror})", way_out) from error


@contextmanager
def _workplace(target: Path, place: Path) -> Iterator[Path]:
    """Give an empty folder on the file system of `target`, and take it away afterwards.

    It lies in `place` or in the nearest folder above it, so that nothing has to be made on the way to `target`, which
    a failure would leave behind, before all is written.
    """
    with _writing(target):
        there = next((path for path in (place, *place.parents) if path.exists()), Path())
        made = Path(tempfile.mkdtemp(prefix=".perfsim-", dir=there))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _merge(new: Path, target: Path) -> None:
    """Move a folder to where it belongs, or what is in it into the folder that is there, replacing files."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        new.rename(target)
        return
    places = {path: target / path.relative_to(new) for path in sorted(new.rglob("*"))}
    faults = Faults()
    for path, place in places.items():
        if place.exists() and place.is_dir() != path.is_dir():
            kind = "folder" if path.is_dir() else "file"
            faults.add("folder", str(place), f"is in the way of a {kind} of that name", "move it away")
    faults.raise_if_any()
    for path, place in places.items():
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)
