"""Writing files whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from perfsim.errors import InputError

__all__ = ["new_folder", "replace_file"]


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a stream to write to; `path` is there, or is replaced, once all is written, and never before."""
    if path.is_dir():
        raise InputError.of("path", str(path), "is a folder", "give the name of a file")
    with _beside(path) as made:
        written = made / path.name
        with written.open("wb") as stream:
            yield stream
        written.replace(path)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder to write in; its contents move to `folder` once all is written, and never before."""
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError.of("folder", str(target), "is a file", "give the name of a folder, or move the file away")
    with _beside(target) as made:
        yield made
        _move(made, target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give an empty folder on the file system of `target`, and take it away afterwards."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        way_out = "give a place that you may write to"
        raise InputError.of("path", str(target), f"cannot be written to ({error.strerror})", way_out) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(made: Path, target: Path) -> None:
    """Move everything from one folder into another on the same file system."""
    target.mkdir(exist_ok=True)
    for path in sorted(made.iterdir()):
        if path.is_dir():
            _move(path, target / path.name)
        else:
            path.replace(target / path.name)
