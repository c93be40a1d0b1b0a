"""Pictures of memory: what fills each GPU, and how it fills and empties over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.report.colours import INK, MEMORY_COLOURS, WARNING
from perfsim.report.device_groups import bars_of
from perfsim.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["envelope", "plot_memory", "plot_memory_over_time"]

_COLUMNS = {
    "weights": "weights_bytes",
    "KV cache": "kv_cache_bytes",
    "activations": "activation_bytes",
    "buffers": "buffer_bytes",
    "reserve": "reserve_bytes",
}
_NEAR = 0.3  # share of the capacity from which on a picture reaches up to it


def plot_memory(memory: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what fills the memory of each GPU at its peak, against its capacity; what does not fit is hatched.

    Of many GPUs neighbours with the same figures share a bar. The capacity is in the picture when a peak comes near
    it, and else in the title.

    Parameters
    ----------
    memory : DataFrame
        As in ``result.memory``.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> plot_memory(result.memory).get_ylabel()
    'memory (GB)'
    """
    from perfsim.report.canvas import byte_axis, device_axis, fresh, hatched, heading, legend_above, limit, stacked_bars

    peak, available = (memory[name].to_numpy(dtype=np.float64) for name in ("peak_bytes", "capacity_bytes"))
    title = _verdict(peak, available, memory.index.to_numpy())
    bars = bars_of(memory)
    parts = {name: bars.frame[column].to_numpy(dtype=np.float64) for name, column in _COLUMNS.items()}
    total, capacity = np.sum(list(parts.values()), axis=0), bars.frame["capacity_bytes"].to_numpy(dtype=np.float64)
    near = bool((total >= _NEAR * capacity).any())
    highest = float(max(total.max(), capacity.max() if near else 0.0))
    ax = fresh(ax, 10, 4.4)
    shown = {name: size for name, size in parts.items() if size.any()}
    stacked_bars(ax, shown, MEMORY_COLOURS)
    over = total > capacity
    extra = [hatched(ax, np.where(over, capacity, np.nan), np.where(over, total, np.nan))] if over.any() else []
    if near:
        edges = np.arange(len(capacity) + 1) - 0.5
        ax.stairs(capacity, edges, baseline=None, color=WARNING, linewidth=1.6, linestyle="--")
        limit(ax, float(capacity[-1]), f"capacity\n{format_bytes(capacity[-1])}")
    ax.set_ylim(0, highest * 1.1)
    byte_axis(ax, "y", highest)
    device_axis(ax, bars.labels)
    heading(ax, title, above=18)
    legend_above(ax, {f"{name}{_most(size)}": MEMORY_COLOURS[name] for name, size in shown.items()}, extra)
    return ax


def _most(size: NDArray[np.float64]) -> str:
    """Write the size of a part, or its largest."""
    words = format_bytes(float(f"{size.max():.3g}"))
    return f" {words}" if size.min() == size.max() else f" ≤ {words}"


def _verdict(total: NDArray[np.float64], capacity: NDArray[np.float64], devices: NDArray[np.int64]) -> str:
    fullest = int((total / capacity).argmax())
    most = f"{format_bytes(total[fullest])} of {format_bytes(capacity[fullest])} (GPU {devices[fullest]})"
    short = int((total > capacity).sum())
    if not short:
        return f"Memory of each GPU at its peak: at most {most}"
    return f"Memory of each GPU at its peak: does NOT fit on {short} of {len(total)} GPUs, up to {most}"


def plot_memory_over_time(
    over_time: pd.DataFrame,
    capacity_bytes: float,
    ax: Axes | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Axes:
    """Draw the memory of a GPU from instant to instant.

    Where there are more steps than pixels, the least and the most in each pixel are drawn. The capacity is in the
    picture when the peak comes near it, and else in the title.

    Parameters
    ----------
    over_time : DataFrame
        As from ``result.memory_over_time(device)``: ``time_s``, ``activation_bytes`` and ``total_bytes``.
    capacity_bytes : float
        What the GPU has.
    ax : Axes, optional
        Where to draw; a new figure when left out.
    start_s, end_s : float, optional
        Show only this time.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such time.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> ax = plot_memory_over_time(result.memory_over_time(0), result.memory["capacity_bytes"].iloc[0])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time (ms)', 'memory (GB)')
    """
    from perfsim.report.canvas import (
        byte_axis,
        does_not_fit,
        fresh,
        heading,
        legend_above,
        limit,
        pixels_wide,
        steps,
        time_axis,
    )

    time_s, total = (over_time[name].to_numpy(dtype=np.float64) for name in ("time_s", "total_bytes"))
    low_s, high_s = _window(time_s, start_s, end_s)
    resident = float(total[0] - over_time["activation_bytes"].iloc[0])
    ax = fresh(ax, 10, 4.0)
    edges, least, most = envelope(time_s, total, (low_s, high_s), pixels_wide(ax))
    colours = _fill(ax, edges, least, most, resident)
    peak, near = float(most.max()), float(most.max()) >= _NEAR * capacity_bytes
    if near:
        ax.axhline(capacity_bytes, color=WARNING, linewidth=1.6, linestyle="--")
        limit(ax, capacity_bytes, f"capacity\n{format_bytes(capacity_bytes)}")
    over = peak > capacity_bytes
    if over:
        high = np.maximum(most, capacity_bytes)
        steps(ax, high, edges, capacity_bytes, facecolor="none", hatch="//", edgecolor=WARNING)
    ax.set_xlim(low_s, high_s)
    ax.set_ylim(0, (max(peak, capacity_bytes) if near else peak) * 1.1)
    time_axis(ax, "x", high_s - low_s)
    byte_axis(ax, "y", ax.get_ylim()[1])
    ax.spines[["top", "right"]].set_visible(False)
    share = f"{format_bytes(peak)}, {peak / capacity_bytes:.1%} of the {format_bytes(capacity_bytes)} there are"
    heading(ax, f"Memory of a GPU over time: at most {share}", above=18)
    legend_above(ax, colours, [does_not_fit()] if over else [])
    return ax


def _fill(
    ax: Axes, edges: NDArray[np.float64], least: NDArray[np.float64], most: NDArray[np.float64], resident: float
) -> dict[str, str]:
    """Fill what stays and what comes and goes, and give the colours by name."""
    from perfsim.report.canvas import steps

    firm, stays = MEMORY_COLOURS["activations"], _tint(MEMORY_COLOURS["weights"])
    light = _tint(firm)
    steps(ax, most, edges, resident, facecolor=light, linewidth=0)
    steps(ax, least, edges, resident, facecolor=firm, linewidth=0)
    steps(ax, most, edges, None, edgecolor=INK, linewidth=0.7)
    ax.fill_between(edges[[0, -1]], resident, color=stays, linewidth=0)
    several = bool((least < most).any())
    colours = {"activations, at least": firm, "at most, within a pixel": light} if several else {"activations": firm}
    return colours | {"weights, KV cache, buffers, reserve": stays}


def envelope(
    time_s: NDArray[np.float64], value: NDArray[np.float64], window_s: tuple[float, float], pixels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Least and most of a step curve in each of so many pixels; the steps themselves when they are fewer.

    Each value is valid from its time to the next; before the first, the first is.

    Returns
    -------
    edges : ndarray, shape (columns + 1,)
    least, most : ndarray, shape (columns,)

    Examples
    --------
    >>> time_s, value = np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0, 9.0, 2.0, 4.0])
    >>> edges, least, most = envelope(time_s, value, (0.0, 4.0), 2)
    >>> edges.tolist(), least.tolist(), most.tolist()
    ([0.0, 2.0, 4.0], [5.0, 2.0], [9.0, 4.0])
    """
    low_s, high_s = window_s
    inside = (time_s > low_s) & (time_s < high_s)
    if inside.sum() < pixels:
        edges = np.concatenate([[low_s], time_s[inside], [high_s]])
        held = value[np.maximum(np.searchsorted(time_s, edges[:-1], side="right") - 1, 0)]
        return edges, held, held
    edges = np.linspace(low_s, high_s, pixels + 1)
    # A column sees the value with which it begins, and those that begin within it.
    first = np.maximum(np.searchsorted(time_s, edges[:-1], side="right") - 1, 0)
    last = np.maximum(np.searchsorted(time_s, edges[1:], side="left"), first + 1)
    bounds = np.stack([first, np.minimum(last, len(value))], axis=1).ravel()
    padded = np.append(value, value[-1])  # reduceat takes no bound behind the last
    return edges, np.minimum.reduceat(padded, bounds)[::2], np.maximum.reduceat(padded, bounds)[::2]


def _window(time_s: NDArray[np.float64], start_s: float | None, end_s: float | None) -> tuple[float, float]:
    low = max(0.0, start_s if start_s is not None else 0.0)
    last = float(time_s.max(initial=0.0))
    high = min(last, end_s if end_s is not None else last)
    if not low < high:
        allowed = f"must be a time between 0 and {last:g} seconds"
        raise InputError.of("start_s, end_s", (start_s, end_s), allowed)  # noqa: TRY003 - not a message, its parts
    return low, high


def _tint(colour: str) -> str:
    """Mix a colour with as much white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{(channel + 255) // 2:02X}" for channel in channels)
