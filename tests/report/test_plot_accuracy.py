"""Predicted against measured: one panel an operator, and no row outside of its picture."""

import numpy as np
import pandas as pd
import pytest

from perfsim.report.plot_accuracy import plot_accuracy


@pytest.fixture
def rows():
    """Give rows of four operators on two systems, one of them far off."""
    operators = np.repeat(["matmul", "decode", "prefill", "all_reduce"], 10)
    rows = pd.DataFrame({"operator": operators, "system": ["a", "b"] * 20, "latency_s": 1e-4, "predicted_s": 1.1e-4})
    rows.loc[0, "predicted_s"] = 1.0
    return rows


def test_a_panel_for_each_operator(rows):
    """What has no operator has no panel."""
    panels = plot_accuracy(rows).get_figure(root=True).axes
    assert [ax.get_title(loc="left").partition(":")[0] for ax in panels] == list(rows["operator"].unique())
    assert panels[1].get_title(loc="left") == "decode: 10 rows, MAPE 10.0 %"


def test_rows_far_off_lie_on_the_edge(rows):
    """A picture without its worst rows would flatter."""
    first = plot_accuracy(rows)
    shown = np.concatenate([line.get_ydata() for line in first.lines if len(line.get_ydata()) == 5])
    low, high = first.get_ylim()
    assert len(shown) == 10
    assert low < shown.min() < shown.max() == 4.0 < high
