"""A sweep's work in blocks of points, each of which can be evaluated by itself, anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perfsim.spec.files import scenario_to_table
from perfsim.spec.scenario import Scenario
from perfsim.study.axes import Axes
from perfsim.study.blocks import axis_columns

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Expected", "Task"]


@dataclass(frozen=True)
class Task(ABC):
    """What every worker needs to know.

    Attributes
    ----------
    scenario : Scenario
        What the axes change.
    axes : Axes
    """

    scenario: Scenario
    axes: Axes

    results: ClassVar[tuple[str, ...]]
    """Columns after those of the axes."""

    @abstractmethod
    def block(self, first: int) -> pd.DataFrame:
        """Evaluate the block that begins with point number `first` of the work order."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Points of a block."""

    def points(self, first: int) -> NDArray[np.int64]:
        """Points of a block."""
        return self.axes.in_work_order(first, min(first + self.length, self.axes.num_points))

    def firsts(self) -> range:
        """Where the blocks begin."""
        return range(0, self.axes.num_points, self.length)

    def fingerprint(self) -> dict[str, Any]:
        """What a sweep's files must agree on."""
        return {"scenario": scenario_to_table(self.scenario), "axes": self.axes.to_table(), "block": self.length}


class Expected(Mapping[int, "pd.DataFrame"]):
    """The columns of the axes of every block, made when they are looked at."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, first: int) -> pd.DataFrame:
        import pandas as pd

        if first not in self.task.firsts():
            raise KeyError(first)
        points = self.task.points(first)
        return pd.DataFrame(axis_columns(self.task.axes, points), index=points)

    def __iter__(self) -> Iterator[int]:
        return iter(self.task.firsts())

    def __len__(self) -> int:
        return len(self.task.firsts())
