"""The paper of the charts: pictures written in one go."""

import io

import pytest

from perfsim.report import plots
from perfsim.report.canvas import write_png


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
