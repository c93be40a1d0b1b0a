"""The roofline: every operator at its FLOP a byte and FLOP a second, below its roofs, with names that can be read."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

import perfsim
from perfsim.report import plots
from perfsim.report.colours import KIND_COLOURS
from perfsim.report.plot_operators import plot_operators
from perfsim.report.plot_roofline import roofline_points
from perfsim.spec.hardware import NetworkTier


def scenario(name):
    """Give a plan of each sort: with one or two data types, devices and phases, and on 1,024 GPUs."""
    load, plan, workload = perfsim.load_cluster, perfsim.Plan, perfsim.Workload
    ethernet = NetworkTier("ethernet", 12.5e9, 2e-5)
    cluster, model, degrees, work = {
        "dense": (load("dgx-h100", 16), "llm-16l-8192", plan(tensor=8, pipeline=2, microbatch_size=1), workload()),
        "mixture": (load("dgx-h100", 32), "deepseek-v3", plan(tensor=8, pipeline=4, expert=8), workload(batch_size=32)),
        "mixed": (
            perfsim.join_clusters(load("dgx-h100"), load("l40s-pcie-8x"), tier=ethernet),
            "llama-3.1-8b", plan(tensor=8, pipeline=2, layers_per_stage=(24, 8), microbatch_size=1),
            workload(batch_size=8),
        ),
        "decode": (load("dgx-h100"), "llama-3.1-70b", plan(tensor=8), workload(phase="decode", dtype="fp8")),
        "generation": (
            load("dgx-b200"), "llama-3.1-70b", plan(tensor=8), workload(phase="generation", output_length=4),
        ),
        "large": (
            load("dgx-h100", 1024), "llama-3.1-405b", plan(tensor=8, pipeline=16, data=8, microbatch_size=1),
            workload(batch_size=64),
        ),
    }[name]  # fmt: skip
    given = {"batch_size": 16} if work.batch_size == workload().batch_size else {}
    made = perfsim.Scenario(cluster, perfsim.load_model(model), degrees, work)
    return made.with_(sequence_length=2048, **given)


NAMES = ("dense", "mixture", "mixed", "decode", "generation", "large")


@pytest.fixture(scope="module")
def results():
    """Give a result of each sort."""
    return {name: perfsim.simulate(scenario(name)) for name in NAMES}


@pytest.fixture(scope="module")
def drawn(results):
    """Give the roofline of each, in a figure of its own."""
    return {name: plots.plot_roofline(result.run) for name, result in results.items()}


@pytest.fixture(scope="module")
def all_points(results):
    """Give the points of each."""
    return {name: roofline_points(result.run) for name, result in results.items()}


@pytest.fixture(params=NAMES)
def name(request):
    """Give each name in turn."""
    return request.param


def marks(ax):
    """Give the operators that are drawn: their names, places, colours and areas."""
    drawn = [c for c in ax.collections if str(c.get_label()).startswith("_") and len(c.get_offsets()) == 1]
    named = [c for c in drawn if c.get_label()[1:2].isalpha() and not c.get_label().startswith("_child")]
    return [(c.get_label()[1:], *c.get_offsets()[0], c.get_facecolor()[0], c.get_sizes()[0]) for c in named]


def small_axes():
    """Make axes of a small figure without a layout of its own."""
    figure = Figure(figsize=(8, 5))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_points_sum_up_the_table_of_operators(results, all_points, name):
    """Every operator that takes time is in one point, with its work; the shares are those of the table."""
    table, points = results[name].operators, all_points[name]
    table = table[table["seconds"] > 0]
    total = (table["seconds"] * table["executions"]).sum()
    assert points["share"].sum() == pytest.approx(1)
    assert points["share"].is_monotonic_decreasing
    assert {op for ops in points["op"] for op in ops.split(", ")} == set(table["op"])
    for bound, share in points.groupby("bound")["share"].sum().items():
        mine = table[table["bound"] == bound]
        assert share * total == pytest.approx((mine["seconds"] * mine["executions"]).sum())
    for point in points.itertuples():
        same = table[np.isclose(table["seconds"], point.seconds, rtol=0) & (table["flop"] == point.flop)]
        assert set(point.op.split(", ")) <= set(same["op"])
        assert (same["bytes"] == point.bytes).any()


def test_each_operator_stands_at_its_work(drawn, all_points, name):
    """Across its FLOP a byte, up its FLOP a second, in the colour of its kind, larger the more time it takes."""
    points, found = all_points[name], marks(drawn[name])
    assert [ops for ops, *_ in found] == points["op"].tolist()
    areas = [area for *_, area in found]
    assert areas == sorted(areas, reverse=True)
    for point, (_, x, y, colour, _) in zip(points.itertuples(), found, strict=True):
        assert mpl.colors.to_hex(colour).upper() == KIND_COLOURS[point.kind]
        if point.flop:
            assert (x, y) == pytest.approx((point.flop / point.bytes, point.flop / point.seconds))
        else:
            assert y / x == pytest.approx(point.bytes / point.seconds)
            assert x < (points["flop"] / points["bytes"])[points["flop"] > 0].min()


def test_there_is_a_roof_for_each_data_type_and_device(drawn):
    """The dense peaks of what is multiplied, of each device, and the bandwidths of their memories; no others."""
    expected = {
        "dense": {"bf16": ["dgx-h100"]},
        "mixture": {"bf16": ["dgx-h100"], "fp8": ["dgx-h100"]},
        "mixed": {"bf16": ["dgx-h100", "l40s-pcie-8x"]},
        "decode": {"fp8": ["dgx-h100"]},
    }
    for name, dtypes in expected.items():
        ax = drawn[name]
        roofs = [line for line in ax.lines if line.get_linewidth() > 1]
        level = sorted({float(line.get_ydata()[1]) for line in roofs if np.ptp(line.get_ydata()) == 0})
        devices = {profile: perfsim.load_cluster(profile).accelerator for own in dtypes.values() for profile in own}
        peaks = [devices[profile].peak_flop_per_s[dtype] for dtype, own in dtypes.items() for profile in own]
        assert level == pytest.approx(sorted(peaks))
        words = " ".join(text.get_text() for text in ax.texts)
        assert all(dtype in words for dtype in dtypes)
        slopes = [line.get_xydata() for line in roofs if np.ptp(line.get_ydata()) > 0]
        found = sorted(float(line[0, 1] / line[0, 0]) for line in slopes)
        assert found == pytest.approx(sorted(device.memory_bytes_per_s for device in devices.values()))
        for line in slopes:
            assert line[1, 1] / line[1, 0] == pytest.approx(line[0, 1] / line[0, 0])


def test_nothing_that_multiplies_beats_its_roof(results, all_points, name):
    """The peak of its data type bounds every operator, and so does the bandwidth those that memory bounds."""
    result = results[name]
    devices = {stage: result.scenario.segment(stage).accelerator for stage in range(result.scenario.plan.pipeline)}
    by_name = {device.name: device for device in devices.values()}
    for point in all_points[name].itertuples():
        if point.flop:
            assert point.flop / point.seconds <= by_name[point.device].peak_flop_per_s[point.dtype]
        if point.bound == "memory":
            assert point.bytes / point.seconds <= by_name[point.device].memory_bytes_per_s * 1.0001


@pytest.mark.parametrize("own", [True, False])
def test_names_are_legible(results, drawn, all_points, name, own):
    """Those that take time have a name, within the axes, that covers no marker, no roof's name and no other name."""
    ax = drawn[name] if own else plots.plot_roofline(results[name].run, small_axes())
    ax.figure.canvas.draw()
    names = [text for text in ax.texts if isinstance(text, Annotation) and text.get_rotation() == 0]
    points = all_points[name]
    assert len(names) >= (points["share"] >= 0.02).sum()
    boxes = [text.get_window_extent().padded(-1.5) for text in ax.texts if text.get_rotation() == 0]
    legend = next(child for child in ax.get_children() if isinstance(child, mpl.legend.Legend))
    for one, other in itertools.combinations([*boxes, legend.get_window_extent()], 2):
        assert not one.overlaps(other)
    places = ax.transData.transform([(x, y) for _, x, y, *_ in marks(ax)])
    for box in (text.get_window_extent() for text in names):
        assert ax.bbox.x0 <= box.x0
        assert box.x1 <= ax.bbox.x1
        assert not box.padded(-1).count_contains(places)


def test_several_devices_and_phases_are_named(drawn):
    """A name says which device or phase it is about where there are several."""
    words = {name: {text.get_text() for text in ax.texts} for name, ax in drawn.items()}
    assert {"mlp_up (L40S)", "mlp_up (H100)"} <= words["mixed"]
    assert {"mlp_up (prefill)", "mlp_up (decode)"} <= words["generation"]
    assert {"mlp_up", "*_all_reduce"} <= words["dense"]


def test_the_bars_of_operators_add_up_to_the_table(results, name):
    """Each operator's bar is as long as its executions take on all GPUs, in pieces by what bounds them."""
    result = results[name]
    ax = plot_operators(result.operators)
    table = result.operators.assign(total_s=result.operators["seconds"] * result.operators["executions"])
    lengths = {bars.get_label(): sum(bar.get_width() for bar in bars) for bars in ax.containers}
    for bound, total in table[table["total_s"] > 0].groupby("bound")["total_s"].sum().items():
        assert lengths.pop(bound) == pytest.approx(total)
    assert not lengths
    first = ax.get_yticklabels()[0].get_text().split(" (")[0]
    longest = table.groupby("op")["total_s"].sum()
    assert first == longest.idxmax()
    ends = max(
        bar.get_x() + bar.get_width() for bars in ax.containers for bar in bars if round(bar.get_y() + 0.35) == 0
    )
    assert ends == pytest.approx(longest.max())
    assert len(ax.get_yticks()) <= 16
    shares = [float(text.get_text().rstrip("%")) for text in ax.texts]
    assert sum(shares) == pytest.approx(100, abs=1)
