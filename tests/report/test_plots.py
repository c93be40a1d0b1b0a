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
from perfsim.report.colours import BOUND_COLOURS, FASTER, KIND_COLOURS, MEMORY_COLOURS, SLOWER, TOTAL, mix
from perfsim.report.lanes import COMMUNICATION, COMPUTE
from perfsim.report.plot_lanes import groups_of
from perfsim.report.plot_memory import envelope
from perfsim.report.strips import PARTS, Executions, mean_shares, strip_of
from perfsim.sim.timeline import union_ps
from perfsim.units import format_seconds, seconds

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
        "plot_operators": lambda ax=None: plots.plot_operators(result.operators, ax),
        "plot_roofline": lambda ax=None: plots.plot_roofline(result.run, ax),
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
    """Each kind has one colour, and no memory part, bound or direction shares it."""
    assert tuple(KIND_COLOURS) == KINDS
    everything = [*KIND_COLOURS.values(), *MEMORY_COLOURS.values(), *BOUND_COLOURS.values(), FASTER, SLOWER, TOTAL]
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


@given(executions(), st.integers(1, 17))
def test_shares_are_exact(executions, pixels):
    """Shares add up to one in every pixel, and over the pixels to the time of each kind."""
    strip = strip_of(*executions, (0, 80))
    shares = strip.shares(np.linspace(0, 80, pixels + 1))
    assert shares.sum(axis=0) == pytest.approx(1)
    for index, kind in enumerate(KINDS):
        begins, ends = strip.pieces(kind)
        assert shares[index].mean() * 80 == pytest.approx((ends - begins).sum())


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
    ax = plots.plot_timeline(tiny, wide_axes(), devices=range(4))
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
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GPU 1 (stage 0)", "GPU 3 (stage 1)"]
    for collection in ax.collections:
        if len(collection.get_label().split()) == 3:
            lane, part, _ = collection.get_label()[1:].split()
            heights = (
                np.concatenate([path.vertices[:, 1] for path in collection.get_paths()]) - ax.get_yticks()[int(lane)]
            )
            assert (np.abs(heights) <= 0.5).all()
            assert (heights.max() <= 0.25) if part == "compute" else (heights.min() >= 0.1)


def drawn_columns(ax):
    """Give the columns of a crowded timeline: (lane, part, kind) -> (edges, how high it reaches from 0 to 1)."""
    found = {}
    for patch in ax.patches:
        label = str(patch.get_label())
        if isinstance(patch, StepPatch) and len(label.split()) == 3:
            lane, part, kind = label[1:].split()
            level, edges, bottom = patch.get_data()
            found[int(lane), part, kind] = edges, bottom - level
    return found


@pytest.mark.parametrize("name", SEEDS)
def test_many_bars_become_columns_with_the_shares_of_each_kind(results, name):
    """With bars narrower than pixels the columns of a lane add up to what the device does, kind by kind, in time."""
    result = results[name].run
    ax = plots.plot_timeline(result, wide_axes(3, 6))
    columns, executions = drawn_columns(ax), Executions(result)
    assert not ax.images
    lanes = [groups[0] for groups in groups_of(result, range(16))]
    assert len(ax.get_yticks()) == len(lanes)
    for lane, device in enumerate(lanes):
        for part, kinds in PARTS.items():
            strip, below = executions.strip(result.slot_of(device), part, (0, result.makespan_ps)), 0.0
            for kind in kinds:
                if (lane, part, kind) not in columns:
                    assert not len(strip.pieces(kind)[0])
                    continue
                edges, reach = columns[lane, part, kind]
                assert (edges[0], edges[-1]) == (0, pytest.approx(float(seconds(result.makespan_ps))))
                height = {"compute": 29 / 50, "communication": 15 / 50}[part]
                spent = (reach * np.diff(edges)).sum() / height
                start, end = strip.pieces(kind)
                assert spent - below == pytest.approx(float(seconds((end - start).sum())))
                below = spent


def test_columns_are_made_of_whole_microbatches(results):
    """So that a pipeline that does the same again and again looks the same all along."""
    run = results["seed-improved"].run
    columns = drawn_columns(plots.plot_timeline(run, wide_axes(3, 6)))
    edges, reach = columns[0, "compute", "matmul"]
    starts = seconds(Executions(run).microbatch_starts_ps(0))
    assert np.abs(starts[:, None] - edges[None, 1:-2]).min(axis=0) == pytest.approx(0)
    assert reach[2:-2] == pytest.approx(reach[2])


def test_bars_of_about_a_pixel_become_a_picture(result):
    """An image spans the lanes and the time, in the colours of what goes on."""
    ax = plots.plot_timeline(result.run, microbatch=range(3))
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    assert (left, right) == pytest.approx(ax.get_xlim())
    assert (top, bottom) == (0, 2)
    rows = np.asarray(image.get_array()).reshape(2, -1, *image.get_array().shape[1:])[..., :3]
    first, second = rows[:, 25]  # a row within the kernels' part of a lane
    assert (second[0] == mix(np.eye(len(KINDS)))[-1]).all(), "stage 1 has nothing to do at first"
    assert len(np.unique(first, axis=0)) > 2


@pytest.mark.parametrize("microbatch", [0, range(1), range(3), [5, 6]])
def test_zoom_to_microbatches(result, microbatch):
    """The axis spans what the microbatches take, and their numbers stand where they begin."""
    ax = plots.plot_timeline(result.run, microbatch=microbatch)
    chosen = np.atleast_1d(microbatch).tolist()
    assert ax.get_xlim() == (
        pytest.approx(float(seconds(result.run.start_ps[chosen].min()))),
        pytest.approx(float(seconds(result.run.end_ps[chosen].max()))),
    )
    numbers = [text for text in ax.texts if text.get_text().isdigit()]
    first = [text for text in numbers if int(text.get_text()) == chosen[0]]
    assert min(text.get_position()[0] for text in first) == pytest.approx(ax.get_xlim()[0])
    assert f"{chosen[0]}" in ax.get_title(loc="left").rpartition("microbatch")[2]


@pytest.mark.parametrize("detail", ["folded", "full"])
@pytest.mark.parametrize("stage", [1, [1], range(1, 2)])
def test_zoom_to_a_stage(result, detail, stage):
    """Only its GPUs have lanes; with a microbatch, the time is that of the microbatch on the stage."""
    run = perfsim.simulate(result.scenario, detail=detail).run
    ax = plots.plot_timeline(run, stage=stage)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GPUs 8–15 (stage 1)"]
    assert ax.get_xlim() == (0, pytest.approx(result.makespan_s))
    ax = plots.plot_timeline(run, stage=stage, microbatch=4)
    rows = perfsim.simulate(result.scenario).timeline
    mine = rows[(rows["device"] >= 8) & (rows["microbatch"] == 4) & (rows["end_s"] > rows["start_s"])]
    assert ax.get_xlim() == pytest.approx((mine["start_s"].min(), mine["end_s"].max()))


def test_zoom_in_time_stays_within_the_run(result):
    """A window that reaches beyond the run is cut to it."""
    ax = plots.plot_timeline(result.run, time_s=(-5, 1e6))
    assert ax.get_xlim() == (0, pytest.approx(result.makespan_s))
    ax = plots.plot_timeline(result.run, time_s=(0.01, 0.0100000001), devices=0)
    assert ax.get_xlabel() == "time (ns)"
    assert ax.get_xlim() == pytest.approx((0.01, 0.0100000001))


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"time_s": (5, 4)}, "time_s", "within the run"),
        ({"time_s": (1e9, 2e9)}, "time_s", "within the run"),
        ({"time_s": (-2, -1)}, "time_s", "within the run"),
        ({"time_s": 3.0}, "time_s", "a start and a later end"),
        ({"time_s": (0, float("nan"))}, "time_s", "a start and a later end"),
        ({"time_s": "01"}, "time_s", "a start and a later end"),
        ({"stage": 2}, "stage", "the 2 stages, 0 to 1"),
        ({"stage": []}, "stage", "the 2 stages, 0 to 1"),
        ({"stage": "1"}, "stage", "the 2 stages, 0 to 1"),
        ({"stage": 0.5}, "stage", "the 2 stages, 0 to 1"),
        ({"microbatch": []}, "microbatch", "the 24 microbatches, 0 to 23"),
        ({"microbatch": range(23, 25)}, "microbatch", "the 24 microbatches, 0 to 23"),
        ({"microbatch": -1}, "microbatch", "the 24 microbatches, 0 to 23"),
        ({"devices": [16]}, "devices", "the 16 GPUs, 0 to 15"),
        ({"devices": [-1]}, "devices", "the 16 GPUs, 0 to 15"),
        ({"devices": []}, "devices", "the 16 GPUs, 0 to 15"),
        ({"stage": 1, "devices": [1]}, "stage, devices", "must not both be given"),
        ({"time_s": (0, 1e-3), "microbatch": 1}, "time_s, microbatch", "must not both be given"),
    ],
)
def test_what_is_not_in_the_run_is_refused(result, refused, arguments, field, words):
    """A window, stage, microbatch or GPU outside of the run is named, with what there is."""
    (fault,) = refused(plots.plot_timeline, result.run, **arguments)
    assert (fault.field, words in fault.allowed) == (field, True)


def test_all_that_is_wrong_with_a_zoom_is_said_at_once(result, refused):
    """Each fault has its field."""
    faults = refused(plots.plot_timeline, result.run, time_s=(2, 1), stage=9)
    assert [fault.field for fault in faults] == ["stage", "time_s"]


def test_folded_and_full_runs_look_the_same(result):
    """Whether one rank stands for all or each was simulated, every pixel is the same."""
    full = perfsim.simulate(result.scenario, detail="full")
    for zoom in ({}, {"stage": 1, "microbatch": 2}, {"time_s": (0, 0.01)}, {"devices": [0, 9]}):
        assert rgba(plots.plot_timeline(result.run, **zoom)) == rgba(plots.plot_timeline(full.run, **zoom))


def thousand(**plan):
    """Simulate a plan on 1,024 GPUs."""
    seed = perfsim.load_scenario("seed-improved")
    cluster = perfsim.load_cluster("dgx-h100", num_devices=1024)
    workload = dataclasses.replace(seed.workload, batch_size=512)
    return perfsim.simulate(perfsim.Scenario(cluster, seed.model, perfsim.Plan(**plan, microbatch_size=1), workload))


@pytest.fixture(scope="module")
def large():
    """Give a result on 1,024 GPUs in four stages."""
    return thousand(tensor=8, pipeline=4, data=32)


def test_gpus_that_do_the_same_share_a_lane(large):
    """1,024 GPUs in four stages have four lanes, named by GPUs and stage, in a picture of a sensible height."""
    ax = plots.plot_timeline(large.run)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"GPUs {256 * stage}–{256 * stage + 255} (stage {stage})" for stage in range(4)]
    assert 3 <= ax.figure.get_figheight() <= 6
    assert not any("mean" in text.get_text() for text in ax.texts)


def test_gpus_that_differ_have_lanes_of_their_own(result):
    """A slow GPU does not hide behind its neighbours."""
    slow = perfsim.Conditions(slowdowns=(perfsim.Slowdown(3, 2.0),))
    scenario = result.scenario.with_(batch_size=2)
    run = perfsim.simulate(scenario, engine="simpy", detail="full", conditions=slow).run
    groups = groups_of(run, range(16))
    assert [device for group in groups for device in group].count(3) == 1
    assert [3] in groups


def test_too_many_lanes_are_shared_by_neighbours(large):
    """They show the mean, say so, and lie within a stage."""
    groups = groups_of(large.run, range(1024), apart=True)
    assert [device for group in groups for device in group] == list(range(1024))
    assert all(group[0] // 256 == group[-1] // 256 for group in groups)
    many = groups_of(large.run, range(1024), most=2)
    assert many == [list(range(512)), list(range(512, 1024))]
    run = thousand(tensor=1, pipeline=16, data=64).run
    for names, shared in (("ab", False), ("abcd", True)):
        ax = plots.plot_timelines(dict.fromkeys(names, run))
        assert any("the mean of its GPUs" in text.get_text() for text in ax.texts) == shared


def test_a_shared_lane_is_the_mean_of_its_gpus(result):
    """The pixels of a lane of two stages lie between those of each."""
    executions, window = Executions(result.run), (0, result.run.makespan_ps)
    strips = [executions.strip(slot, "compute", window) for slot in (0, 1)]
    pixel_ps = np.linspace(*window, 101)
    mean = mean_shares(strips, [3, 1], pixel_ps)
    assert mean == pytest.approx(0.75 * strips[0].shares(pixel_ps) + 0.25 * strips[1].shares(pixel_ps))


def lane_ends(ax):
    """Give the top and the bottom of the lanes of each plan of `plot_timelines`, by where they end in time."""
    ends = {}
    for collection in ax.collections:
        corners = np.concatenate([path.vertices for path in collection.get_paths()])
        key = round(float(corners[:, 0].max()), 9)
        low, high = corners[:, 1].min(), corners[:, 1].max()
        ends[key] = min(low, ends.get(key, (low, high))[0]), max(high, ends.get(key, (low, high))[1])
    return ends


def test_several_plans_share_the_axis_of_time(results):
    """Each plan has a group of lanes that ends with its makespan, under its name."""
    chosen = {name: results[name] for name in ("seed-layerwise-pipelined", "seed-improved")}
    ax = plots.plot_timelines({name: result.run for name, result in chosen.items()}, wide_axes(3, 8))
    makespans = [result.makespan_s for result in chosen.values()]
    spans = lane_ends(ax)
    assert sorted(spans) == pytest.approx(sorted(makespans))
    assert ax.get_xlim() == (0, pytest.approx(max(makespans)))
    above, below = (spans[round(makespan, 9)] for makespan in makespans)
    assert above[1] < below[0]
    names = [text.get_text() for text in ax.texts if "makespan" in text.get_text()]
    assert [name.split(":")[0] for name in names] == list(chosen)


def test_a_much_longer_plan_is_cut(results):
    """The axis ends a little behind the other plans, and the long one says how far it goes on."""
    runs = {name: result.run for name, result in results.items()}
    others = max(results[name].makespan_s for name in SEEDS[1:])
    assert results["seed-baseline"].makespan_s > 3 * others
    ax = plots.plot_timelines(runs)
    assert ax.get_xlim() == (0, pytest.approx(1.25 * others))
    (more,) = [text.get_text() for text in ax.texts if "goes on" in text.get_text()]
    assert more == f"goes on until {format_seconds(results['seed-baseline'].makespan_s)} →"
    whole = plots.plot_timelines(runs, time_s=(0, 1e9))
    assert whole.get_xlim() == (0, pytest.approx(results["seed-baseline"].makespan_s))


def test_the_first_instants_of_several_plans(results):
    """With an end, no plan is drawn beyond it."""
    ax = plots.plot_timelines({name: result.run for name, result in results.items()}, time_s=(0, 0.5))
    assert ax.get_xlim() == (0, 0.5)
    assert len(ax.images) == 3
    assert all(image.get_extent()[1] == pytest.approx(0.5) for image in ax.images)


def test_zoom_of_several_plans(results):
    """A stage and a microbatch of each plan, from the first start to the last end under any of them."""
    runs = {name: result.run for name, result in results.items()}
    ax = plots.plot_timelines(runs, stage=0, microbatch=1)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["GPU 0 (stage 0)", "GPU 0 (stage 0)", "GPUs 0–7 (stage 0)"]
    rows = [
        result.timeline.query("stage == 0 and microbatch == 1 and stream != 'receive'") for result in results.values()
    ]
    low, high = min(frame["start_s"].min() for frame in rows), max(frame["end_s"].max() for frame in rows)
    assert ax.get_xlim() == pytest.approx((low, high))
    late = plots.plot_timelines(runs, time_s=(results["seed-improved"].makespan_s * 2, 1e3))
    assert late.get_xlim()[1] == pytest.approx(max(result.makespan_s for result in results.values()))


@pytest.mark.parametrize(
    ("zoom", "fields"),
    [
        ({"time_s": (0, -1.0)}, ["time_s"]),
        ({"time_s": (1e6, 2e6)}, ["time_s"]),
        ({"stage": 5}, ["runs['seed-improved'].stage"]),
        ({"microbatch": 24}, [f"runs[{name!r}].microbatch" for name in SEEDS]),
    ],
)
def test_what_a_plan_does_not_have_is_refused(results, refused, zoom, fields):
    """With the name of the plan that does not have it."""
    runs = {name: result.run for name, result in results.items()}
    assert [fault.field for fault in refused(plots.plot_timelines, runs, **zoom)] == fields


def test_nothing_to_compare_is_refused(refused):
    """No plan at all is an error."""
    assert [fault.field for fault in refused(plots.plot_timelines, {})] == ["runs"]


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


def test_gpus_with_the_same_figures_share_a_bar(large):
    """1,024 GPUs in four stages have four bars, named by GPUs and stage, with figures over them."""
    for draw, frame in ((plots.plot_load_balance, large.load_balance), (plots.plot_memory, large.memory)):
        ax = draw(frame)
        labels = [label.get_text() for label in ax.get_xticklabels()]
        assert labels == [f"{256 * stage}–{256 * stage + 255}\nstage {stage}" for stage in range(4)]
        assert all(len(bars) == 4 for bars in ax.containers)
    ax = plots.plot_load_balance(large.load_balance)
    shares = large.load_balance.groupby("stage")["utilization"].mean()
    assert [text.get_text() for text in ax.texts] == [f"{share:.1%}" for share in shares]
    assert f"{large.load_balance['utilization'].mean():.1%}" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("plan", "number"), [({"tensor": 8, "pipeline": 16, "data": 8}, 16), ({"pipeline": 32, "data": 32}, 0)]
)
def test_names_of_bars_do_not_overlap(plan, number):
    """Neither those of sixteen groups nor those of thirty-two."""
    model = dataclasses.replace(perfsim.load_model("llm-16l-8192"), num_hidden_layers=32)
    cluster, workload = perfsim.load_cluster("dgx-h100", num_devices=1024), perfsim.Workload(batch_size=64)
    result = perfsim.simulate(perfsim.Scenario(cluster, model, perfsim.Plan(**plan, microbatch_size=1), workload))
    ax = plots.plot_load_balance(result.load_balance)
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) == (number or len(boxes)) >= 16
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_one_gpu_that_differs_has_a_bar_of_its_own(large):
    """It ends the group before it."""
    frame = large.load_balance.copy()
    frame.loc[300, "busy_s"] *= 0.9
    labels = [label.get_text() for label in plots.plot_load_balance(frame).get_xticklabels()]
    assert labels[1:4] == ["256–299\nstage 1", "300\nstage 1", "301–511\nstage 1"]


def test_a_capacity_out_of_reach_is_in_the_title_only(result):
    """It would press the parts flat; a peak that comes near it is drawn against it."""
    memory = result.memory.copy()
    assert memory["peak_bytes"].max() < 0.3 * memory["capacity_bytes"].min()
    ax = plots.plot_memory(memory)
    assert ax.get_ylim()[1] == pytest.approx(1.1 * memory["peak_bytes"].max())
    assert "of 85.52 GB" in ax.get_title(loc="left")
    ax = plots.plot_memory(memory.assign(capacity_bytes=memory["peak_bytes"].max() * 2))
    assert ax.get_ylim()[1] == pytest.approx(2.2 * memory["peak_bytes"].max())
    assert any("capacity" in text.get_text() for text in ax.texts)


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


def kinds_table(**idle):
    """Make up plans that work for ten seconds and idle for so many."""
    return pd.DataFrame({name: {"matmul": 8.0, "collective": 2.0, IDLE: more} for name, more in idle.items()}).T


def test_idling_that_would_squeeze_the_other_plans_is_cut():
    """The bar is cut behind the others, with its full figure at the cut; what it does is in the picture."""
    ax = plots.plot_time_by_kind(kinds_table(fast=1.0, slow=400.0))
    assert ax.get_xlim() == (0, pytest.approx(1.1 * 1.25 * 11))
    assert "cut" in ax.get_title(loc="left")
    (total,) = [text for text in ax.texts if text.get_text() == "410 s"]
    assert 1.25 * 11 < total.get_position()[0] < ax.get_xlim()[1]
    (idle,) = [text for text in ax.texts if text.get_text() == "400 s"]
    assert idle.get_position()[0] == pytest.approx((10 + 1.25 * 11) / 2)


@pytest.mark.parametrize(
    "table", [kinds_table(fast=1.0, slow=15.0), kinds_table(fast=1.0, slow=400.0).assign(matmul=[8.0, 3e4])]
)
def test_work_is_never_cut(table):
    """Nor is what is not much longer."""
    ax = plots.plot_time_by_kind(table)
    assert ax.get_xlim() == (0, pytest.approx(1.1 * table.sum(axis=1).max()))
    assert "cut" not in ax.get_title(loc="left")


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
