"""Load balance on the page: what each GPU spends the makespan on."""

from __future__ import annotations

from typing import Any

from perfsim.report.colours import KIND_COLOURS
from perfsim.simulation import Result
from perfsim.study.page.figures import IDLE_COLOUR, figure, stacked, tip
from perfsim.units import format_seconds

__all__ = ["balance_figure"]

_COLOURS = {
    "kernels": KIND_COLOURS["matmul"],
    "communication alone": KIND_COLOURS["collective"],
    "idle": IDLE_COLOUR,
}


def balance_figure(result: Result) -> tuple[Any, dict[str, str]]:
    """Draw how each GPU spends the makespan, which is the height of its bar; give the colours with it."""
    table = result.load_balance
    parts = {"kernels": table["compute_s"], "communication alone": table["busy_s"] - table["compute_s"],
             "idle": table["idle_s"]}  # fmt: skip
    tips = [
        tip(f"GPU {device}, stage {row['stage']:.0f}", {
            "kernels": format_seconds(row["compute_s"]),
            "communication": f"{format_seconds(row['communication_s'])}, of it "
                             f"{format_seconds(row['busy_s'] - row['compute_s'])} with no kernel beside it",
            "idle": f"{format_seconds(row['idle_s'])}, {row['bubble_fraction']:.1%}",
            "busy over mean": f"{row['busy_over_mean']:.4f}",
        })
        for device, row in table.iterrows()
    ]  # fmt: skip
    shares = {name: (100 * part / result.makespan_s).to_numpy() for name, part in parts.items()}
    plot = figure(height=260, tools="", toolbar_location=None, x_axis_label="GPU", y_axis_label="% of the makespan",
                  y_range=(0, 100))  # fmt: skip
    stacked(plot, "vbar_stack", _COLOURS, {"device": table.index.to_numpy(), "tip": tips, **shares}, x="device")
    return plot, _COLOURS
