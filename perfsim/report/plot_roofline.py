"""A roofline: what each operator of a plan reaches, below what its device could at most.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.arguments import PEAK_DTYPE
from perfsim.ops.operators import Attention, Experts, MatMul
from perfsim.report.colours import INK, KIND_COLOURS, MUTED
from perfsim.report.frames import operators_frame
from perfsim.report.lanes import Run
from perfsim.spec.hardware import Accelerator
from perfsim.units import format_bytes, format_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.transforms import BboxBase

__all__ = ["plot_roofline", "roofline_points"]

_MARKERS = {"compute": "o", "memory": "s", "network": "^", "overhead": "D"}
_STYLES = ("-", "--", ":", "-.")
_LEAST_NAMED = 0.005  # share of the time from which on an operator has a name
_FEW = 12  # so many have a name however short they are
_SMALLEST, _LARGEST = 20.0, 400.0  # areas of a marker in square points
_COLLECTIVES = {"exchange": "collective"}
_STRIP = 12.0  # ends of the strip of operators without FLOP: a factor of the intensity


def roofline_points(run: Run) -> pd.DataFrame:
    """Sum up the operators that do the same work in the same time, as those of equal layers do.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        One row each, the longest first: ``op`` (names of the operators, separated by commas), ``kind``, ``bound``,
        ``device`` (name of the accelerator), ``dtype`` (of the multiplication; blank without one), ``phase``, ``flop``,
        ``bytes`` and ``seconds`` of one execution, ``share`` of the time of all operators on all devices.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> points = roofline_points(result.run)
    >>> points.loc[1, "op"], points.loc[1, "bound"], float(points["share"].sum().round(6))
    ('mlp_down', 'compute', 1.0)
    """
    import pandas as pd

    scenario, graphs = run.program.scenario, run.program.graphs
    frame = operators_frame(run).reset_index(drop=True)
    works = [operator.work for graph in graphs for operator in graph]
    dtypes = [work.dtype if isinstance(work, MatMul | Attention | Experts) else "" for work in works]
    phases = ["prefill", "decode"] if scenario.workload.phase == "generation" else [scenario.workload.phase]
    frame = frame.assign(
        dtype=[PEAK_DTYPE.get(dtype, dtype) for dtype in dtypes],
        device=[scenario.segment(stage).accelerator.name for stage in frame["stage"]],
        phase=[phases[min(index, len(phases) - 1)] for index, graph in enumerate(graphs) for _ in graph],
        kind=frame["kind"].replace(_COLLECTIVES),
        total_s=frame["seconds"] * frame["executions"],
    )
    alike = ["kind", "bound", "device", "dtype", "phase", "flop", "bytes", "seconds"]
    groups = frame[frame["seconds"] > 0].groupby(alike, sort=False, as_index=False)
    points = groups.agg(op=("op", lambda ops: ", ".join(dict.fromkeys(ops))), total_s=("total_s", "sum"))
    points["share"] = points["total_s"] / points["total_s"].sum()
    points = points.sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return pd.DataFrame(points[["op", *alike, "share"]])


@dataclass(frozen=True)
class _Roof:
    """What a kind of device could at most: bytes a second, and FLOP a second in each data type that is used."""

    device: Accelerator
    dtypes: tuple[str, ...]
    style: str

    @property
    def peaks(self) -> dict[str, float]:
        return {dtype: float(self.device.peak_flop_per_s[dtype]) for dtype in self.dtypes}

    @property
    def highest(self) -> float:
        """The peak up to which the bandwidth bounds; of a device that multiplies nothing, that of its fastest type."""
        return max(self.peaks.values(), default=max(self.device.peak_flop_per_s.values()))

    @property
    def ridge(self) -> float:
        """FLOP a byte from which on the highest peak bounds."""
        return self.highest / self.device.memory_bytes_per_s


def plot_roofline(run: Run, ax: Axes | None = None) -> Axes:
    """Draw the operators of a plan below the roofs of its devices.

    Across: FLOP of the matrix units for each byte read or written; up: FLOP a second. The roofs are the bandwidth of
    the memory, and the dense peak of each data type that the plan multiplies in, for each kind of device. Operators
    without such FLOP stand in a strip at the left, as far below the roof there as their bytes a second are below the
    bandwidth of the memory. The colour says the kind of operator, the shape what bounds it, the size its share of the
    time of all operators; the longest, and all
    from 0.5 % on, have a name. Operators that do the same are one mark.

    Parameters
    ----------
    run : Run
        As in ``result.run``.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> ax = plot_roofline(result.run)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('FLOP a byte', 'FLOP/s of a GPU')
    """
    from perfsim.report.canvas import fresh, heading, place_names, settle

    points = roofline_points(run)
    roofs = _roofs(run, points)
    x, y, start = _places(points, roofs)
    ax = fresh(ax, 10, 6.4)
    limits = (start / _STRIP, 4 * max(float(x.max()), *(roof.ridge for roof in roofs)))
    ax.set(xscale="log", yscale="log", xlim=limits, xlabel="FLOP a byte", ylabel="FLOP/s of a GPU")
    ax.set_ylim(float(y.min()) / 4, 2.5 * max(roof.highest for roof in roofs))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}" if value >= start else "")
    ax.yaxis.set_major_formatter(lambda value, _: format_count(value))
    ax.minorticks_off()
    ax.grid(color="#E8E8E8", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    area = np.clip(_LARGEST * points["share"].to_numpy() / points["share"].max(), _SMALLEST, None)
    for place, point in enumerate(points.itertuples()):
        ax.scatter(
            x[place], y[place], s=area[place], color=KIND_COLOURS[point.kind], marker=_MARKERS.get(point.bound, "X"),
            edgecolors="white", linewidths=0.8, zorder=3 + place / len(points), label=f"_{point.op}",
        )  # fmt: skip
    _strip(ax, start, some=bool((points["flop"] == 0).any()))
    bound = points.groupby("bound")["share"].sum()
    devices = " and ".join(roof.device.name for roof in roofs)
    time = f"{bound.max():.0%} of the operators' time is bound by {bound.idxmax()}"
    heading(ax, f"Roofline of {devices}: {time}", above=18)
    shapes = _legend(ax, points)
    settle(ax)
    taken = [shapes.get_window_extent(), *_draw_roofs(ax, roofs, limits)]
    named = np.flatnonzero((points["share"] >= _LEAST_NAMED) | (points.index < _FEW))
    names = [_name(points.loc[place], points, several=len(roofs) > 1) for place in named]
    place_names(ax, x, y, dict(zip(named.tolist(), names, strict=True)), radii=np.sqrt(area) / 2, taken=taken)
    return ax


def _roofs(run: Run, points: pd.DataFrame) -> list[_Roof]:
    """The roofs of each kind of device, in the order of the stages."""
    scenario = run.program.scenario
    devices = [scenario.segment(stage).accelerator for stage in range(scenario.plan.pipeline)]
    kinds = {device.name: device for device in devices}
    roofs = []
    for place, (name, device) in enumerate(kinds.items()):
        dtypes = points.loc[(points["device"] == name) & (points["dtype"] != ""), "dtype"].unique()
        roofs.append(_Roof(device, tuple(map(str, dtypes)), _STYLES[place % len(_STYLES)]))
    return roofs


def _places(points: pd.DataFrame, roofs: list[_Roof]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Where each operator stands, and the intensity at which the strip of those without FLOP ends."""
    flop, moved = points["flop"].to_numpy(), points["bytes"].to_numpy()
    works = flop > 0
    x = np.divide(flop, moved, out=np.zeros(len(points)), where=works & (moved > 0))
    lowest = min([*x[x > 0].tolist(), *(roof.ridge for roof in roofs)])
    start = lowest / 4
    # Side by side, so that those of about the same speed do not cover each other.
    idle = np.flatnonzero(~works)
    beside = (np.arange(len(idle)) * 0.618 + 0.5) % 1
    x[idle] = start / _STRIP ** (0.12 + 0.76 * beside)
    moved = np.maximum(moved, 1)
    return x, np.where(works, flop, x * moved) / points["seconds"].to_numpy(), start


def _strip(ax: Axes, start: float, *, some: bool) -> None:
    """Set off the strip of the operators without FLOP."""
    if some:
        ax.axvspan(ax.get_xlim()[0], start, color="#F4F4F4", zorder=0)
        ax.text(
            start / _STRIP**0.5, 0.985, "no matrix FLOP:\nbytes/s against\nthe bandwidth",
            transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=8.5, color=MUTED,
        )  # fmt: skip


def _draw_roofs(ax: Axes, roofs: list[_Roof], limits: tuple[float, float]) -> list[BboxBase]:
    """Draw the roofs of each device with their names, and give the pixels that they take."""
    from perfsim.report.canvas import along, boxes_of_line

    names, boxes = [], []
    for place, roof in enumerate(roofs):
        bandwidth, who = roof.device.memory_bytes_per_s, f"{roof.device.name}, " if len(roofs) > 1 else ""
        look: dict[str, Any] = {"color": INK, "linewidth": 1.3, "linestyle": roof.style, "zorder": 2}
        middle = limits[0] * (roof.ridge / limits[0]) ** (0.6 - 0.25 * place)
        names.append(along(ax, (middle, middle * bandwidth), bandwidth, f"{who}memory {format_bytes(bandwidth)}/s"))
        lines = [([limits[0], roof.ridge], [limits[0] * bandwidth, roof.highest])]
        for dtype, peak in roof.peaks.items():
            lines.append(([peak / bandwidth, limits[1]], [peak, peak]))
            words = f"{who}{dtype} {format_count(peak, 'FLOP/s')}"
            look_of_words: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 9, "color": INK}
            names.append(ax.text(limits[1], peak * 1.03, words, in_layout=False, **look_of_words))
        for across, up in lines:
            boxes += boxes_of_line(ax, ax.plot(across, up, **look)[0])
    return [*boxes, *(name.get_window_extent() for name in names)]


def _name(point: pd.Series, points: pd.DataFrame, *, several: bool) -> str:
    """Name an operator by what its names have in common, with its phase and device where there are several."""
    ops = point["op"].split(", ")
    words = zip(*(op.split("_")[::-1] for op in ops), strict=False)
    ending = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, words)][::-1]
    name = ops[0] if len(ops) == 1 else "*_" + "_".join(ending) if ending else f"{ops[0]} and {len(ops) - 1} more"
    about = [str(point["phase"])] * (points["phase"].nunique() > 1) + [point["device"].split()[0]] * several
    return f"{name} ({', '.join(about)})" if about else name


def _legend(ax: Axes, points: pd.DataFrame) -> Artist:
    """Say the colours above the picture and the shapes in its corner of much FLOP and little speed, which is empty."""
    from matplotlib.lines import Line2D

    from perfsim.report.canvas import legend_above

    bounds = [bound for bound in [*_MARKERS, "none"] if (points["bound"] == bound).any()]
    look: dict[str, Any] = {"linestyle": "", "color": MUTED, "markersize": 7}
    handles = [Line2D([], [], marker=_MARKERS.get(bound, "X"), label=bound, **look) for bound in bounds]
    shapes = ax.legend(handles=handles, loc="lower right", title="bound by", fontsize=9, title_fontsize=9)
    ax.add_artist(shapes)
    legend_above(ax, {kind: colour for kind, colour in KIND_COLOURS.items() if (points["kind"] == kind).any()})
    return shapes
