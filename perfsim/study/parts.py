"""The files of a sweep that is written as it goes: one Parquet file a block, and what they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsim.errors import InputError
from perfsim.study.axes import plain
from perfsim.study.blocks import RESULTS
from perfsim.study.output import replace_file
from perfsim.version import __version__

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Parts"]

ABOUT = "sweep.json"
_PART = re.compile(r"part-(\d{12})\.parquet")


@dataclass(frozen=True)
class Parts:
    """The folder of a sweep.

    Attributes
    ----------
    folder : Path
    about : dict
        What the files belong to: scenario, axes, size of the blocks, version of perfsim.
    results : tuple of str
        Columns after those of the axes.
    """

    folder: Path
    about: dict[str, Any]
    results: tuple[str, ...] = RESULTS

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any], results: tuple[str, ...] = RESULTS) -> Parts:
        """Make the folder, or go on in one that holds the same sweep.

        Raises
        ------
        InputError
            The folder holds something else, or cannot be written to. Nothing in it is changed then.
        """
        about = json.loads(json.dumps({"version": __version__, **fingerprint}))
        file = folder / ABOUT
        way_out = "give another folder, or take its files away"
        if folder.exists() and not folder.is_dir():
            raise InputError.of("path", str(folder), "must be a folder", "give another name")
        if not file.exists():
            if folder.exists() and any(folder.iterdir()):
                raise InputError.of("path", str(folder), "holds files that are not of a sweep", way_out)
            with replace_file(file) as stream:
                stream.write(json.dumps(about, indent=1).encode())
            return cls(folder, about, results)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError.of("path", str(file), f"cannot be read ({error})", way_out) from error
        if not isinstance(found, dict):
            raise InputError.of("path", str(file), "must describe a sweep in one JSON object", way_out)
        if found != about:
            different = sorted(key for key in {*found, *about} if found.get(key) != about.get(key))
            raise InputError.of(
                "path", str(folder), f"holds another sweep (it differs in {', '.join(different)})", way_out
            )
        return cls(folder, about, results)

    def read(self, expected: Mapping[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
        """Read the blocks that are there, by the number of their first point.

        Parameters
        ----------
        expected : mapping of int to DataFrame
            For the first number of every block that there may be, the index and the columns of its axes, with `figures`
            after them.

        Raises
        ------
        InputError
            A file is broken, or not of this sweep.
        """
        frames = {}
        for path in sorted(self.folder.glob("part-*.parquet")):
            match = _PART.fullmatch(path.name)
            if match is None or int(match[1]) not in expected:
                raise InputError.of("path", str(path), "is not a part of this sweep", "take the file away")
            frames[int(match[1])] = self._read(path, expected[int(match[1])])
        return frames

    def _read(self, path: Path, axes: pd.DataFrame) -> pd.DataFrame:
        """Read a block, and take its axes from the sweep: Parquet changes the types of some values."""
        import pandas as pd

        way_out = "take the file away; its points will be computed again"
        try:
            frame = pd.read_parquet(path, page_checksum_verification=True)
            belongs = list(frame) == [*axes, *self.results] and frame.index.equals(axes.index)
            same = belongs and all(_alike(frame[name], axes[name]) for name in axes)
            sound = same and all(frame[name].dtype.kind == _kind(name) for name in self.results if name != "reason")
        except Exception as error:  # a damaged description makes the readers raise anything
            raise InputError.of("path", str(path), f"is not a readable Parquet file ({error})", way_out) from error
        if not sound:
            raise InputError.of("path", str(path), "is not a part of this sweep", way_out)
        return pd.concat([axes, frame[list(self.results)]], axis=1)

    def write(self, first: int, frame: pd.DataFrame) -> None:
        """Keep a block; its file is there whole or not at all."""
        with replace_file(self.folder / f"part-{first:012d}.parquet") as stream:
            frame.to_parquet(stream, write_page_checksum=True)


def _kind(name: str) -> str:
    """NumPy's letter for what a column of results holds: flags or numbers."""
    return "b" if name in {"fits", "drains"} else "f"


def _alike(found: pd.Series, wanted: pd.Series) -> bool:
    """Whether two columns hold the same values, in whatever types; what is missing is missing in both."""
    gaps = found.isna().to_numpy()
    same_gaps = bool((gaps == wanted.isna().to_numpy()).all())
    return same_gaps and list(map(plain, found[~gaps])) == list(map(plain, wanted[~gaps]))
