"""The paper of the charts: pictures written in one go."""

import io

import numpy as np
import pytest

from perfsim.report import plots
from perfsim.report.canvas import fresh, place_names, settle, write_png


@pytest.fixture(scope="module")
def chart(improved_result):
    """Give a function that draws a chart with a layout to be found: a legend above, labels at the right."""
    return lambda: plots.plot_memory(improved_result.memory)


def test_a_picture_is_what_matplotlib_saves(chart, tmp_path):
    """To the byte, in a file and in a stream."""
    expected, stream = io.BytesIO(), io.BytesIO()
    chart().figure.savefig(expected, format="png")
    write_png(chart(), stream)
    write_png(chart(), tmp_path / "chart.png")
    assert stream.getvalue() == expected.getvalue()
    assert (tmp_path / "chart.png").read_bytes() == expected.getvalue()


def test_a_notebook_shows_the_same_picture(chart):
    """Of axes that were returned."""
    stream = io.BytesIO()
    write_png(chart(), stream)
    assert chart()._repr_png_() == stream.getvalue()


def test_a_name_without_room_is_left_out():
    """Rather than over another one; those that come first are placed first."""
    ax = fresh(None, 4, 3)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    settle(ax)
    x, names = np.array([0.5, 0.5]), {0: "short", 1: "a name as long as the whole picture " * 3}
    placed = place_names(ax, x, x, names, radii=np.array([3.0, 3.0]), taken=[])
    assert [text.get_text() for text in placed] == ["short"]
    assert [text.get_text() for text in ax.texts] == ["short"]
    assert not place_names(ax, x, x, {0: "short"}, radii=np.array([3.0, 3.0]), taken=[ax.bbox])
