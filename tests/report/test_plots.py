"""The pictures show what the data says: lengths, shares and heights are read back from what was drawn."""

import dataclasses
import io
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

import perfsim
from perfsim.errors import InputError
from perfsim.report import plots
from perfsim.report.breakdown import IDLE, KINDS, time_by_kind
from perfsim.report.colours import FASTER, KIND_COLOURS, MEMORY_COLOURS, SLOWER, TOTAL, mix
from perfsim.report.lanes import COMMUNICATION, COMPUTE
from perfsim.report.plot_lanes import groups_of
from perfsim.report.plot_memory import envelope
from perfsim.report.strips import PARTS, Executions, mean_shares, stack, strip_of
from perfsim.sim.timeline import union_ps
from perfsim.units import seconds

SEEDS = ("seed-baseline", "seed-layerwise-pipelined", "seed-improved")


@pytest.fixture(scope="module")
def results():
    """Give the three seed plans on a small batch."""
    return {name: perfsim.simulate(perfsim.load_scenario(name).with_(batch_size=24)) for name in SEEDS}


@pytest.fixture(scope="module")
def result(results):
    """Give the improved plan on a small batch."""
    return results["seed-improved"]


@pytest.fixture(scope="module")
def tiny():
    """Give a run of two layers, of which every bar is wider than a pixel of a wide picture."""
    model = dataclasses.replace(perfsim.load_model("llm-16l-8192"), num_hidden_layers=2)
    plan = perfsim.Plan(tensor=2, pipeline=2, microbatch_size=1)
    workload = perfsim.Workload(batch_size=2, sequence_length=10_000)
    return perfsim.simulate(perfsim.Scenario(perfsim.load_cluster("dgx-h100"), model, plan, workload)).run


def wide_axes(width=40, height=6):
    """Make axes of a figure that pyplot does not know."""
    return Figure(figsize=(width, height)).add_subplot()


def rgba(ax):
    """Draw the figure and give its pixels."""
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def drawn_bars(ax):
    """Give the bars of a timeline: lane, part and kind, start and end in seconds."""
    found = []
    for collection in ax.collections:
        label = collection.get_label()
        if label.startswith("_") and len(label.split()) == 3:
            lane, part, kind = label[1:].split()
            times = [path.vertices[:, 0] for path in collection.get_paths()]
            found += [(int(lane), part, kind, time.min(), time.max()) for time in times]
    return pd.DataFrame(found, columns=["lane", "part", "kind", "start_s", "end_s"])


def pictures(results):
    """Give every public picture as a function of the axes."""
    runs = {name: result.run for name, result in results.items()}
    result = results["seed-improved"]
    kinds = pd.DataFrame({name: time_by_kind(run) for name, run in runs.items()}).T
    waterfall = pd.DataFrame(
        [("a", 3.0, 0.0, 3.0), ("idle", -1.0, 3.0, 2.0), ("b", 2.0, 0.0, 2.0)],
        columns=["kind", "change_s", "start_s", "end_s"],
    )
    kept = result.scenario.with_(keep_kv_cache=True)
    table = perfsim.sweep(kept, batch_size=[8, 64, 512], sequence_length=[4096, 16384], progress=False)
    return {
        "plot_timeline": lambda ax=None: plots.plot_timeline(result.run, ax),
        "plot_timelines": lambda ax=None: plots.plot_timelines(runs, ax),
        "plot_load_balance": lambda ax=None: plots.plot_load_balance(result.load_balance, ax),
        "plot_memory": lambda ax=None: plots.plot_memory(result.memory, ax),
        "plot_memory_over_time": lambda ax=None: plots.plot_memory_over_time(result.memory_over_time(0), 85e9, ax),
        "plot_time_by_kind": lambda ax=None: plots.plot_time_by_kind(kinds, ax),
        "plot_waterfall": lambda ax=None: plots.plot_waterfall(waterfall, ax),
        "plot_heatmap": lambda ax=None: plots.plot_heatmap(table, "batch_size", "sequence_length", ax=ax),
        "plot_lines": lambda ax=None: plots.plot_lines(table, "batch_size", by="sequence_length", ax=ax),
        "plot_pareto": lambda ax=None: plots.plot_pareto(table, ax=ax),
    }


# All of them


@pytest.mark.parametrize("name", plots.__all__)
def test_a_picture_is_drawn_on_the_axes_it_is_given(results, name):
    """The axes that go in come out, with something on them and a title."""
    ax = wide_axes(8, 4)
    assert pictures(results)[name](ax) is ax
    assert ax.has_data()
    assert ax.get_title(loc="left")


@pytest.mark.parametrize("name", plots.__all__)
def test_a_picture_of_its_own_leaves_no_figure_open(results, name):
    """Without axes a new figure is made that pyplot does not hold, and a notebook can show it."""
    from matplotlib import pyplot as plt

    before, settings = plt.get_fignums(), dict(mpl.rcParams)
    ax = pictures(results)[name]()
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == settings
    assert ax._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", plots.__all__)
def test_a_picture_is_the_same_every_time(results, name):
    """Two drawings agree in every byte, so a changed picture means changed numbers."""
    draw = pictures(results)[name]
    assert rgba(draw()) == rgba(draw())


@pytest.mark.parametrize("name", plots.__all__)
def test_the_legend_covers_no_data(results, name):
    """The legend and the title lie above the data, and in the picture."""
    ax = pictures(results)[name]()
    ax.figure.canvas.draw()
    legend, title = ax.get_legend().get_window_extent(), ax._left_title.get_window_extent()
    assert legend.y0 >= ax.bbox.y1 - 1
    assert title.y0 >= legend.y1 - 1
    assert max(title.x1, legend.x1) <= ax.figure.bbox.x1
    assert title.y1 <= ax.figure.bbox.y1


def test_every_kind_has_a_colour_of_its_own():
    """Each kind has one colour, and no memory part or direction shares it."""
    assert tuple(KIND_COLOURS) == KINDS
    everything = [*KIND_COLOURS.values(), *MEMORY_COLOURS.values(), FASTER, SLOWER, TOTAL]
    assert len(set(everything)) == len(everything)


# Strips


@st.composite
def executions(draw):
    """Make up executions on whole picoseconds, that may touch, overlap and take no time."""
    rows = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20), st.integers(0, 4)), max_size=30))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 0] + table[:, 1], table[:, 2].astype(np.int8)


@given(executions(), st.integers(0, 40), st.integers(1, 60))
def test_a_strip_says_what_goes_on_at_every_instant(executions, low, length):
    """Instant by instant, the strip has the first kind in order of precedence, or idling."""
    start, end, kind = executions
    strip = strip_of(start, end, kind, (low, low + length))
    assert (strip.edge_ps[0], strip.edge_ps[-1]) == (low, low + length)
    assert (np.diff(strip.edge_ps) > 0).all()
    assert (strip.kind[1:] != strip.kind[:-1]).all()
    for instant in range(low, low + length):
        active = kind[(start <= instant) & (instant < end)]
        expected = active.min() if len(active) else KINDS.index(IDLE)
        assert strip.kind[np.searchsorted(strip.edge_ps, instant, side="right") - 1] == expected


@given(executions(), st.integers(1, 17), st.integers(1, 9))
def test_shares_are_exact(executions, pixels, rows):
    """Shares add up to one in every pixel, and over the pixels to the time of each kind; stacking keeps them."""
    strip = strip_of(*executions, (0, 80))
    shares = strip.shares(np.linspace(0, 80, pixels + 1))
    assert shares.sum(axis=0) == pytest.approx(1)
    for index, kind in enumerate(KINDS):
        begins, ends = strip.pieces(kind)
        assert shares[index].mean() * 80 == pytest.approx((ends - begins).sum())
    stacked = stack(shares, rows)
    assert stacked.sum(axis=0) == pytest.approx(1)
    assert stacked.mean(axis=1) == pytest.approx(shares)


def test_colours_mix_by_share():
    """A pixel of one kind has its colour; half idle lies half way to the idle colour."""
    assert mix(np.eye(len(KINDS))).tolist() == [
        [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in KIND_COLOURS.values()
    ]


# Timelines


@pytest.mark.parametrize("name", SEEDS)
def test_pixels_add_up_to_the_load_balance(results, name):
    """The time of each part of a lane, summed over its pixels, is that of the load balance."""
    result = results[name]
    executions = Executions(result.run)
    pixel_ps = np.linspace(0, result.run.makespan_ps, 1001)
    for device in (0, 7, 15):
        for part, column in (("compute", "compute_s"), ("communication", "communication_s")):
            strip = executions.strip(result.run.slot_of(device), part, (0, result.run.makespan_ps))
            busy = 1 - strip.shares(pixel_ps)[KINDS.index(IDLE)].mean()
            assert busy * result.makespan_s == pytest.approx(result.load_balance.loc[device, column])


def test_bars_are_as_long_as_the_executions(tiny):
    """In each lane, the bars of each part sum up to the union of its intervals, within the run."""
    ax = plots.plot_timeline(tiny, wide_axes())
    assert not ax.images
    bars = drawn_bars(ax)
    for lane in range(4):
        for part, kinds in (("compute", COMPUTE), ("communication", COMMUNICATION)):
            mine = bars[(bars["lane"] == lane) & (bars["part"] == part)]
            union = union_ps(*tiny.intervals(tiny.slot_of(lane), kinds))
            assert (mine["end_s"] - mine["start_s"]).sum() == pytest.approx(float(seconds(union)))
            assert set(mine["kind"]) <= set(PARTS[part])
    assert bars["start_s"].min() >= 0
    assert bars["end_s"].max() == pytest.approx(float(seconds(tiny.makespan_ps)))
    assert ax.get_xlim() == (0, float(seconds(tiny.makespan_ps)))


def test_each_lane_stands_where_its_label_says(tiny):
    """The bars of a lane lie around its tick, kernels above communication."""
    ax = plots.plot_timeline(tiny, wide_axes(), devices=[1, 3])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "3"]
    for collection in ax.collections:
        if len(collection.get_label().split()) == 3:
            lane, part, _ = collection.get_label()[1:].split()
            heights = np.concatenate([path.vertices[:, 1] for path in collection.get_paths()]) - int(lane)
            assert (np.abs(heights) <= 0.5).all()
            assert (heights.max() <= 0.25) if part == "compute" else (heights.min() >= 0.1)


def test_many_bars_become_a_picture_of_the_whole_run(result):
    """With more bars than pixels an image spans the lanes and the run, in the colours of what goes on."""
    ax = plots.plot_timeline(result.run)
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (0, pytest.approx(result.makespan_s))
    assert (top, bottom) == (-0.5, 15.5)
    rows = np.asarray(image.get_array()).reshape(16, -1, *image.get_array().shape[1:])[..., :3]
    stage_0, stage_1 = rows[0, 20], rows[8, 20]  # a row within the kernels' part of a lane
    assert (stage_1[0] == mix(np.eye(len(KINDS)))[-1]).all(), "stage 1 has nothing to do at first"
    assert (stage_0[-1] == mix(np.eye(len(KINDS)))[-1]).all(), "stage 0 has nothing to do at last"
    assert len(np.unique(stage_0, axis=0)) > 2


@pytest.mark.parametrize("microbatches", [range(1), range(3), [5, 6]])
def test_zoom_to_microbatches(result, microbatches):
    """The axis spans what the microbatches take, and their numbers stand where they begin."""
    ax = plots.plot_timeline(result.run, microbatches=microbatches)
    chosen = list(microbatches)
    assert ax.get_xlim() == (
        pytest.approx(float(seconds(result.run.start_ps[chosen].min()))),
        pytest.approx(float(seconds(result.run.end_ps[chosen].max()))),
    )
    numbers = [text for text in ax.texts if text.get_text().isdigit()]
    first = [text for text in numbers if int(text.get_text()) == chosen[0]]
    assert min(text.get_position()[0] for text in first) == pytest.approx(ax.get_xlim()[0])


def test_zoom_in_time_stays_within_the_run(result):
    """A window that reaches beyond the run is cut to it."""
    ax = plots.plot_timeline(result.run, start_s=-5, end_s=1e6)
    assert ax.get_xlim() == (0, pytest.approx(result.makespan_s))
    ax = plots.plot_timeline(result.run, start_s=0.01, end_s=0.0100000001, devices=[0])
    assert ax.get_xlabel() == "time (ns)"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"start_s": 5, "end_s": 4}, "start_s, end_s"),
        ({"start_s": 1e9}, "start_s, end_s"),
        ({"microbatches": []}, "microbatches"),
        ({"microbatches": range(23, 25)}, "microbatches"),
        ({"devices": [16]}, "devices"),
        ({"devices": [-1]}, "devices"),
        ({"devices": []}, "devices"),
    ],
)
def test_what_is_not_in_the_run_is_refused(result, arguments, field):
    """A window, microbatch or GPU outside of the run is named."""
    with pytest.raises(InputError) as caught:
        plots.plot_timeline(result.run, **arguments)
    assert caught.value.faults[0].field == field


def test_folded_and_full_runs_look_the_same(result):
    """Whether one rank stands for all or each was simulated, every pixel is the same."""
    full = perfsim.simulate(result.scenario, detail="full")
    assert rgba(plots.plot_timeline(result.run)) == rgba(plots.plot_timeline(full.run))


def test_a_thousand_gpus_share_lanes():
    """With 1,024 GPUs neighbours of one stage share a lane, which shows their mean."""
    seed = perfsim.load_scenario("seed-improved")
    cluster = perfsim.load_cluster("dgx-h100", num_devices=1024)
    plan = perfsim.Plan(tensor=8, pipeline=4, data=32, microbatch_size=1)
    run = perfsim.simulate(perfsim.Scenario(cluster, seed.model, plan, seed.workload)).run
    groups = groups_of(run, None)
    assert [device for group in groups for device in group] == list(range(1024))
    assert all(group[0] // 256 == group[-1] // 256 for group in groups)
    ax = plots.plot_timeline(run)
    assert len(ax.get_yticks()) == len(groups) == 32
    assert any("mean of 32 GPUs" in text.get_text() for text in ax.texts)


def test_a_shared_lane_is_the_mean_of_its_gpus(result):
    """The pixels of a lane of two stages lie between those of each."""
    executions, window = Executions(result.run), (0, result.run.makespan_ps)
    strips = [executions.strip(slot, "compute", window) for slot in (0, 1)]
    pixel_ps = np.linspace(*window, 101)
    mean = mean_shares(strips, [3, 1], pixel_ps)
    assert mean == pytest.approx(0.75 * strips[0].shares(pixel_ps) + 0.25 * strips[1].shares(pixel_ps))


def test_several_plans_share_the_axis_of_time(results):
    """Each plan has a group of lanes that ends with its makespan, under its name."""
    runs = {name: result.run for name, result in results.items()}
    ax = plots.plot_timelines(runs)
    ends = [image.get_extent()[1] for image in ax.images]
    assert ends == pytest.approx([results[name].makespan_s for name in SEEDS])
    assert ax.get_xlim() == (0, pytest.approx(max(ends)))
    spans = [sorted(image.get_extent()[2:]) for image in ax.images]
    assert all(above[1] < below[0] for above, below in itertools.pairwise(spans))
    names = [text.get_text() for text in ax.texts if "makespan" in text.get_text()]
    assert [name.split(":")[0] for name in names] == list(SEEDS)


def test_the_first_instants_of_several_plans(results):
    """With an end, no plan is drawn beyond it."""
    ax = plots.plot_timelines({name: result.run for name, result in results.items()}, end_s=0.5)
    assert ax.get_xlim() == (0, 0.5)
    assert all(image.get_extent()[1] <= 0.5 for image in ax.images)


@pytest.mark.parametrize(("runs", "end_s"), [({}, None), ("all", 0), ("all", -1.0)])
def test_nothing_to_compare_is_refused(results, runs, end_s):
    """No plan at all, or an end that is not above 0, is an error."""
    runs = {name: result.run for name, result in results.items()} if runs == "all" else runs
    with pytest.raises(InputError):
        plots.plot_timelines(runs, end_s=end_s)


# Load balance and memory


def test_load_balance_bars_stack_up_to_the_makespan(results):
    """Each part has a bar for each GPU, and the bars stack up to the makespan."""
    result = results["seed-baseline"]
    ax = plots.plot_load_balance(result.load_balance)
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}
    frame = result.load_balance
    assert heights["compute"] == pytest.approx(frame["compute_s"].tolist())
    assert heights["idle"] == pytest.approx(frame["idle_s"].tolist())
    assert np.sum(list(heights.values()), axis=0) == pytest.approx(result.makespan_s)
    shown = [text.get_text() for text in ax.texts]
    assert shown == [f"{share:.1%}" for share in frame["utilization"]]


def test_load_balance_of_a_thousand_gpus(result):
    """With many GPUs the bars become steps of the same heights."""
    frame = pd.concat([result.load_balance] * 64, ignore_index=True)
    ax = plots.plot_load_balance(frame)
    steps = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    assert len(steps) == 3
    values, edges, _ = steps[-1].get_data()
    assert values == pytest.approx(result.makespan_s)
    assert len(edges) == 1025


def test_memory_bars_stack_up_to_the_peak(result):
    """The parts stack up to the peak of each GPU, and nothing is marked when all fits."""
    ax = plots.plot_memory(result.memory)
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
    assert tops == pytest.approx(result.memory["peak_bytes"].tolist())
    assert "NOT" not in ax.get_title(loc="left")
    assert "does not fit" not in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("copies", [1, 64])
def test_what_does_not_fit_is_hatched(copies):
    """Bars are hatched from the capacity to the peak, the title says NOT, few or many GPUs."""
    kept = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=512, keep_kv_cache=True))
    memory = pd.concat([kept.memory] * copies, ignore_index=True)
    assert not memory["fits"].any()
    ax = plots.plot_memory(memory)
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    if copies == 1:
        assert [bar.get_y() for bar in hatched] == pytest.approx(memory["capacity_bytes"].tolist())
        assert [bar.get_y() + bar.get_height() for bar in hatched] == pytest.approx(memory["peak_bytes"].tolist())
    else:
        values, _, baseline = hatched[0].get_data()
        assert values == pytest.approx(memory["peak_bytes"].to_numpy())
        assert baseline == pytest.approx(memory["capacity_bytes"].to_numpy())
    assert f"NOT fit on {16 * copies} of {16 * copies}" in ax.get_title(loc="left")
    assert "does not fit" in [text.get_text() for text in ax.get_legend().get_texts()]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=40), st.integers(1, 30))
def test_the_envelope_holds_all_values(rows, pixels):
    """In each column the least and the most are those of the step curve within it."""
    steps = dict(sorted(rows))
    time, value = np.array(list(steps), dtype=float), np.array(list(steps.values()), dtype=float)
    edges, least, most = envelope(time, value, (0.0, 60.0), pixels)
    assert (edges[0], edges[-1]) == (0, 60)
    assert len(least) == len(most) == len(edges) - 1 <= pixels
    for column, (low, high) in enumerate(itertools.pairwise(edges)):
        starts = [max(np.searchsorted(time, low, side="right") - 1, 0)]
        seen = value[starts + np.flatnonzero((time > low) & (time < high)).tolist()]
        assert (least[column], most[column]) == (seen.min(), seen.max())


def test_memory_over_time_reaches_the_peak(result):
    """The curve's highest point is the peak, whether drawn in full or as an envelope; the capacity is named."""
    frame = result.memory_over_time(0)
    for end_s in (None, 0.5):
        ax = plots.plot_memory_over_time(frame, 85e9, end_s=end_s)
        highest = max(np.max(patch.get_data().values) for patch in ax.patches)
        assert highest == frame.loc[frame["time_s"] < (end_s or np.inf), "total_bytes"].max()
        assert "85 GB" in ax.get_title(loc="left")


def test_memory_over_time_shows_a_capacity_that_is_near(result):
    """A capacity that the peak comes near, or passes, is a line in the picture, and what is over it is hatched."""
    frame = result.memory_over_time(0)
    peak = frame["total_bytes"].max()
    for capacity, over in ((peak * 1.2, False), (peak * 0.9, True)):
        ax = plots.plot_memory_over_time(frame, capacity)
        assert any(list(line.get_ydata()) == [capacity, capacity] for line in ax.lines)
        assert any(patch.get_hatch() for patch in ax.patches) == over
    with pytest.raises(InputError):
        plots.plot_memory_over_time(frame, peak, start_s=1e9)


# Where the time goes


def test_time_by_kind_stacks_up_to_the_makespan(results):
    """Each plan's bars stand end to end, in the colours of their kinds, from 0 to its makespan."""
    table = pd.DataFrame({name: time_by_kind(result.run) for name, result in results.items()}).T
    ax = plots.plot_time_by_kind(table)
    assert [bars.get_label() for bars in ax.containers] == list(KINDS)
    right = np.zeros(3)
    for bars in ax.containers:
        assert [bar.get_x() for bar in bars] == pytest.approx(right)
        assert [bar.get_width() for bar in bars] == pytest.approx(table[bars.get_label()].to_numpy())
        assert all(mpl.colors.to_hex(bar.get_facecolor()).upper() == KIND_COLOURS[bars.get_label()] for bar in bars)
        right = np.array([bar.get_x() + bar.get_width() for bar in bars])
    assert right == pytest.approx([results[name].makespan_s for name in SEEDS])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SEEDS)


def test_waterfall_bars_connect():
    """Each bar starts where the one before ends, goes up or down as the sign says, and its colour says it too."""
    rows = [
        ("before", 5.0, 0.0, 5.0),
        ("matmul", -2.5, 5.0, 2.5),
        ("idle", 1.25, 2.5, 3.75),
        ("after", 3.75, 0.0, 3.75),
    ]
    ax = plots.plot_waterfall(pd.DataFrame(rows, columns=["kind", "change_s", "start_s", "end_s"]))
    bars = ax.containers[0].patches
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars]
    assert spans == [(start, end) for _, _, start, end in rows]
    assert [line.get_ydata()[0] for line in ax.lines] == [5.0, 2.5, 3.75]
    assert [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in bars] == [TOTAL, FASTER, SLOWER, TOTAL]
    assert [text.get_text() for text in ax.texts] == ["5 s", "−2.5 s", "+1.25 s", "3.75 s"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["before", "matmul", "idle", "after"]


def test_a_waterfall_needs_two_plans():
    """A table without a row for each plan is refused."""
    with pytest.raises(InputError, match="two plans"):
        plots.plot_waterfall(pd.DataFrame({"kind": [], "change_s": [], "start_s": [], "end_s": []}))


def test_pictures_can_be_saved(result):
    """The figure of the axes saves without a display."""
    buffer = io.BytesIO()
    plots.plot_timeline(result.run).figure.savefig(buffer, format="svg")
    assert b"</svg>" in buffer.getvalue()
