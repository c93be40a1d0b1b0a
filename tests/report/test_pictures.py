"""The pictures look as they did when someone looked at them.

The axes have a fixed place, so that another release of the font renderer changes letters and nothing else; that passes,
and a bar or a label that moves does not.
"""

import dataclasses
import shutil
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from PIL import Image

import perfsim
from perfsim.report import plots
from perfsim.report.breakdown import KINDS

GOLDEN = Path(__file__).parent / "golden"
REDUCED = 12
"""Pixels each way that become one before pictures are compared: letters count by their place, not by their shape."""
TOLERANCE = 5.0
"""Root mean square over pixels and channels, of 255: unhinted letters made at most 4.3, what moved below at least 6."""


@pytest.fixture(scope="module")
def small(documented):
    """Give a result of two layers in two stages, priced by documented efficiencies: no fit changes a picture."""
    model = dataclasses.replace(perfsim.load_model("llm-16l-8192"), num_hidden_layers=2)
    plan = perfsim.Plan(tensor=2, pipeline=2, microbatch_size=1)
    cluster = dataclasses.replace(documented, num_devices=8)
    return perfsim.simulate(
        perfsim.Scenario(cluster, model, plan, perfsim.Workload(batch_size=3, sequence_length=10_000))
    )


def draw(name, small, ax):
    """Draw one of the pictures."""
    seconds = {"fast": (4, 2, 0, 1, 1.5, 0.5, 1), "slow": (5, 2, 0, 1, 0, 0.5, 90)}
    kinds = pd.DataFrame(seconds, index=list(KINDS), dtype=float).T
    balance = pd.DataFrame({"stage": [0] * 512 + [1] * 512, "busy_s": [8.0] * 512 + [5.0] * 512})
    balance = balance.assign(compute_s=balance["busy_s"] - 2, idle_s=10 - balance["busy_s"])
    other = small.scenario.with_(plan=dataclasses.replace(small.scenario.plan, schedule="sequential"))
    return {
        "timeline": lambda: plots.plot_timeline(small.run, ax),
        "timelines": lambda: plots.plot_timelines({"in turn": perfsim.simulate(other).run, "at once": small.run}, ax),
        "load-balance": lambda: plots.plot_load_balance(balance.assign(utilization=balance["busy_s"] / 10), ax),
        "memory-over-time": lambda: small.plot_memory_over_time(0, ax),
        "time-by-kind": lambda: plots.plot_time_by_kind(kinds, ax),
        "operators": lambda: small.plot_operators(ax),
        "roofline": lambda: small.plot_roofline(ax),
    }[name]()


NAMES = ("timeline", "timelines", "load-balance", "memory-over-time", "time-by-kind", "operators", "roofline")


def picture(name, small, path, change=None, **settings):
    """Draw a picture into a file, with other settings of the font renderer or after a change."""
    with style.context("default"), mpl.rc_context(settings):
        figure = Figure(figsize=(10, 4), dpi=72)
        FigureCanvasAgg(figure)
        ax = draw(name, small, figure.add_axes((0.27, 0.18, 0.68, 0.64)))
        if change is not None:
            change(ax)
        figure.savefig(path)
    return path


def reduced(path, target):
    """Write a picture in which a pixel is the mean of many."""
    with Image.open(path) as image:
        image.convert("RGB").reduce(REDUCED).save(target)
    return str(target)


def check(name, actual):
    """Hold a picture against the golden one; where it differs it lies beside it as a .new.png."""
    golden, differs = GOLDEN / f"{name}.png", "there is no golden one"
    if golden.is_file():
        pair = (reduced(path, actual.with_name(f"{path.stem}-reduced.png")) for path in (golden, actual))
        differs = compare_images(*pair, TOLERANCE)
    if differs:
        fresh = golden.with_name(f"{name}.new.png")
        shutil.copyfile(actual, fresh)
        pytest.fail(f"{fresh} differs from {golden}: look at both, and rename the new one if it is right\n{differs}")


@pytest.mark.parametrize("name", NAMES)
def test_golden(small, name, tmp_path):
    """Each picture is what it was."""
    check(name, picture(name, small, tmp_path / "picture.png"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hinting", ["none", "force_autohint"])
def test_another_font_renderer_passes(small, name, hinting, tmp_path):
    """Letters with other outlines are no reason to fail."""
    actual = picture(name, small, tmp_path / "picture.png", **{"text.hinting": hinting})
    assert actual.read_bytes() != (GOLDEN / f"{name}.png").read_bytes()
    check(name, actual)


def shorter_bar(ax):
    """Make the first bar a tenth of the axis shorter."""
    bar = ax.patches[0]
    bar.set_width(bar.get_width() - 0.1 * (ax.get_xlim()[1] - ax.get_xlim()[0]))


def higher_bar(ax):
    """Move a bar up."""
    bar = ax.patches[0]
    bar.set_height(bar.get_height() * 0.9)


def moved_label(ax):
    """Move the title and an axis label by a line."""
    ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=11, pad=8)


def later_bars(ax):
    """Let everything start a little later."""
    low, high = ax.get_xlim()
    ax.set_xlim(low - 0.03 * (high - low), high)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("load-balance", higher_bar),
        ("time-by-kind", shorter_bar),
        ("operators", shorter_bar),
        ("timeline", later_bars),
        ("timelines", later_bars),
        ("memory-over-time", later_bars),
        ("timeline", moved_label),
        ("roofline", moved_label),
    ],
)
def test_what_moves_is_noticed(small, name, change, tmp_path, monkeypatch):
    """A bar that is a tenth shorter, a title that moves by a line: the check fails, and the new picture is kept."""
    golden = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.setitem(globals(), "GOLDEN", golden)
    actual = picture(name, small, tmp_path / "picture.png", change)
    with pytest.raises(pytest.fail.Exception, match="differs from"):
        check(name, actual)
    assert (golden / f"{name}.new.png").read_bytes() == actual.read_bytes()


def test_a_missing_picture_is_made(small, tmp_path, monkeypatch):
    """The first time the new picture is kept to be looked at."""
    monkeypatch.setitem(globals(), "GOLDEN", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="no golden one"):
        check("timeline", picture("timeline", small, tmp_path / "picture.png"))
    assert (tmp_path / "timeline.new.png").is_file()
