"""The files of a sweep that is written as it goes: one Parquet file a block, and what they belong to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsim.errors import InputError
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
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any]) -> Parts:
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
            return cls(folder, about)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError.of("path", str(file), f"cannot be read ({error})", way_out) from error
        if found != about:
            different = sorted(key for key in {*found, *about} if found.get(key) != about.get(key))
            raise InputError.of(
                "path", str(folder), f"holds another sweep (it differs in {', '.join(different)})", way_out
            )
        return cls(folder, about)

    def read(self) -> dict[int, pd.DataFrame]:
        """Read the blocks that are there, by the number of their first point.

        Raises
        ------
        InputError
            A file is broken, or not of this sweep.
        """
        return {
            int(match[1]): self._read(path, int(match[1]))
            for path in self._files()
            if (match := _PART.fullmatch(path.name))
        }

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _read(self, path: Path, first: int) -> pd.DataFrame:
        import pandas as pd

        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            way_out = "take the file away; its points will be computed again"
            raise InputError.of("path", str(path), f"is not a readable Parquet file ({error})", way_out) from error
        names = {axis["name"] for axis in self.about["axes"]}
        if not names <= set(frame.columns) or first % self.about["block"] or len(frame) > self.about["block"]:
            raise InputError.of("path", str(path), "is not a part of this sweep", "take the file away")
        return frame

    def write(self, first: int, frame: pd.DataFrame) -> None:
        """Keep a block; its file is there whole or not at all."""
        with replace_file(self.folder / f"part-{first:012d}.parquet") as stream:
            frame.to_parquet(stream)
