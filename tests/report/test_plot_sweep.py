"""The pictures of a sweep show what its table says: cells, lines and fronts are read back from what was drawn."""

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import perfsim
from perfsim.errors import InputError
from perfsim.report import plots
from perfsim.report.plot_sweep import plot_heatmap, plot_lines, plot_pareto
from perfsim.report.sweep_table import Column, Scale, is_geometric, is_wide, varying, words_of
from perfsim.study.sweep import sweep

BATCHES = [1, 4, 16, 64, 256, 1024]
SEQUENCES = [256, 1024, 4096, 16384]
DOES_NOT_FIT, IMPOSSIBLE = "////", "...."


@pytest.fixture(scope="module")
def sizes():
    """Give a sweep over batch and sequence, of which the largest points do not fit."""
    scenario = perfsim.load_scenario("seed-improved").with_(keep_kv_cache=True)
    table = sweep(scenario, batch_size=BATCHES, sequence_length=SEQUENCES, progress=False)
    assert 0 < table["fits"].sum() < len(table)
    return table


@pytest.fixture(scope="module")
def plans():
    """Give a sweep over batch and plan; one plan is impossible, one only for odd batches, and some do not fit."""
    chosen = {
        "TP8": perfsim.Plan(tensor=8, pipeline=2, microbatch_size=1),
        "TP3": perfsim.Plan(tensor=3, pipeline=2),
        "DP2": perfsim.Plan(tensor=8, data=2, microbatch_size=1),
        "PP16": perfsim.Plan(pipeline=16, microbatch_size=1),
    }
    scenario = perfsim.load_scenario("seed-improved").with_(keep_kv_cache=True)
    return sweep(scenario, batch_size=BATCHES, plan=chosen, progress=False)


@pytest.fixture(scope="module")
def many():
    """Give a made-up table of 10,000 points of all kinds, batches by ratio and sequences by difference."""
    batch, sequence = (part.ravel() for part in np.meshgrid(2.0 ** (np.arange(100) / 10), np.arange(200, 20200, 200)))
    peak = 4e9 + 16e3 * batch * sequence
    table = pd.DataFrame({"batch_size": batch, "sequence_length": sequence, "makespan_s": batch * sequence / 2e5})
    table = table.assign(tokens_per_s=2e5 * batch / (batch + 5) + sequence, first_sequence_s=sequence / 5e5)
    table = table.assign(peak_bytes=peak, fits=peak < 85e9, reason=np.where(peak < 85e9, "", "does not fit: ..."))
    impossible = batch > 900
    table.loc[impossible, ["makespan_s", "tokens_per_s", "first_sequence_s", "peak_bytes"]] = np.nan
    return table.assign(
        fits=table["fits"] & ~impossible, reason=table["reason"].where(~impossible, "impossible: too many")
    )


def hatched_cells(ax, hatch):
    """Give the cells (column, row) of a heat map of evenly sized cells that have a hatch."""
    cells = set()
    for collection in ax.collections:
        if collection.get_hatch() == hatch:
            for path in collection.get_paths():
                (left, bottom), (right, top) = path.vertices.min(axis=0), path.vertices.max(axis=0)
                columns, rows = (
                    range(round(left + 0.5), round(right + 0.5)),
                    range(round(bottom + 0.5), round(top + 0.5)),
                )
                cells |= set(itertools.product(columns, rows))
    return cells


def legend_of(ax):
    """Give the words of the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def labels_of(axis):
    """Give the ticks' words."""
    return [label.get_text() for label in axis.get_ticklabels()]


def drawn_lines(ax):
    """Give the lines with data, two for each: all its points, and those that fit."""
    return [line for line in ax.lines if len(line.get_xdata())]


def rgba(ax):
    """Draw the figure and give its pixels."""
    canvas = FigureCanvasAgg(ax.get_figure())
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def pictures(sizes, plans):
    """Give the three pictures as functions of the axes, each with a legend."""
    return {
        "heatmap": lambda ax=None: plot_heatmap(sizes, "batch_size", "sequence_length", ax=ax),
        "lines": lambda ax=None: plot_lines(plans, "batch_size", by="plan", ax=ax),
        "pareto": lambda ax=None: plot_pareto(sizes, ax=ax),
    }


NAMES = ("heatmap", "lines", "pareto")


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_on_the_axes_it_is_given(sizes, plans, name):
    """The axes that go in come out, with something on them and a title."""
    ax = Figure(figsize=(8, 4)).add_subplot()
    assert pictures(sizes, plans)[name](ax) is ax
    assert ax.has_data()
    assert ax.get_title(loc="left")


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_its_own_changes_nothing_else(sizes, plans, name):
    """No figure stays open, no setting and no table changes, and a notebook can show the axes."""
    from matplotlib import pyplot as plt

    before, settings, copies = plt.get_fignums(), dict(mpl.rcParams), (sizes.copy(), plans.copy())
    ax = pictures(sizes, plans)[name]()
    assert ax._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == settings
    pd.testing.assert_frame_equal(sizes, copies[0])
    pd.testing.assert_frame_equal(plans, copies[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_the_same_every_time(sizes, plans, name):
    """Two drawings agree in every byte."""
    draw = pictures(sizes, plans)[name]
    assert rgba(draw()) == rgba(draw())


@pytest.mark.parametrize("name", NAMES)
def test_the_legend_covers_no_data(sizes, plans, name):
    """The legend and the title lie above the data, and in the picture."""
    ax = pictures(sizes, plans)[name]()
    ax.figure.canvas.draw()
    legend, title = ax.get_legend().get_window_extent(), ax._left_title.get_window_extent()
    assert legend.y0 >= ax.bbox.y1 - 1
    assert title.y0 >= legend.y1 - 1
    assert max(title.x1, legend.x1) <= ax.figure.bbox.x1
    assert title.y1 <= ax.figure.bbox.y1


@pytest.mark.parametrize("columns", [["batch_size"], ["plan", "batch_size"]])
def test_a_single_row_is_drawn(plans, columns):
    """One point makes a picture of each kind, with its value."""
    row = plans.iloc[:1]
    ax = plot_lines(row, columns[0])
    assert [line.get_ydata().tolist() for line in drawn_lines(ax)] == [row["tokens_per_s"].tolist()] * 2
    ax = plot_heatmap(row, columns[-1], "plan.tensor")
    assert ax.collections[0].get_array().tolist() == [row["tokens_per_s"].tolist()]
    ax = plot_pareto(row)
    assert ax.lines[1].get_xydata().tolist() == [[row["first_sequence_s"].iloc[0], row["tokens_per_s"].iloc[0]]]


def test_ten_thousand_points_are_drawn_in_each_way(many):
    """Many points show on scales that suit their spacing."""
    ax = plot_heatmap(many, "batch_size", "sequence_length")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert ax.collections[0].get_array().shape == (100, 100)
    assert ax.collections[0].get_array().count() == many["fits"].sum()
    assert legend_of(ax) == ["does not fit in memory", "impossible"]
    assert labels_of(ax.xaxis)[0] == "1"
    assert len(ax.get_xticks()) < 20
    rgba(ax)
    ax = plot_lines(many[many["sequence_length"] % 2000 == 0], "batch_size", by="sequence_length")
    assert ax.get_xscale() == "log"
    assert len(drawn_lines(ax)) == 20
    rgba(ax)
    ax = plot_pareto(many, "makespan_s")
    assert len(ax.lines[0].get_xdata()) == many["fits"].sum()
    assert 2 < len(ax.texts) < 50
    rgba(ax)


def test_all_points_infeasible(sizes):
    """Nothing that fits: all cells are hatched, all lines broken, and no front."""
    none = sizes.assign(fits=False, reason="does not fit: needs more")
    ax = plot_heatmap(none, "batch_size", "sequence_length")
    assert len(hatched_cells(ax, DOES_NOT_FIT)) == len(none)
    assert len(ax.figure.axes) == 1, "no colour bar of nothing"
    assert "0 of 24 points fit" in ax.get_title(loc="left")
    for whole in drawn_lines(plot_lines(none, "batch_size", by="sequence_length"))[1::2]:
        assert np.isnan(whole.get_ydata()).all()
    ax = plot_pareto(none)
    assert [text.get_text() for text in ax.texts] == ["no point fits"]
    assert [len(line.get_xdata()) for line in ax.lines] == [0, 0]
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    rgba(ax)


def test_all_points_impossible(sizes):
    """Nothing that is possible: the pictures say so."""
    none = sizes.assign(fits=False, reason="impossible: ...", tokens_per_s=np.nan, first_sequence_s=np.nan)
    ax = plot_heatmap(none, "batch_size", "sequence_length")
    assert len(hatched_cells(ax, IMPOSSIBLE)) == len(none)
    assert legend_of(ax) == ["impossible"]
    ax = plot_lines(none, "batch_size", by="sequence_length")
    assert all(label.endswith("(impossible)") for label in legend_of(ax))
    assert len(ax.get_yticks()) == 0
    assert [text.get_text() for text in plot_pareto(none).texts] == ["no point fits"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_from_a_file_gives_the_same_picture(plans, kind, tmp_path):
    """A round trip through a file, which turns empty reasons into NaN, changes no pixel."""
    plain = plans[["batch_size", "plan", "tokens_per_s", "fits", "reason"]]
    path = tmp_path / f"table.{kind}"
    if kind == "csv":
        plain.to_csv(path, index=False)
        again = pd.read_csv(path)
        assert again["reason"].isna().any()
    else:
        plain.to_parquet(path)
        again = pd.read_parquet(path)
    assert rgba(plot_heatmap(again, "batch_size", "plan")) == rgba(plot_heatmap(plain, "batch_size", "plan"))


def test_no_warnings(sizes, plans):
    """Drawing warns of nothing, down to the pixels and as SVG."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in pictures(sizes, plans).values():
            rgba(draw())


# Heat map


def test_a_heat_map_shows_each_value_where_it_belongs(sizes):
    """Each cell has its point's value, named by the ticks; the bar names quantity and unit."""
    ax = plot_heatmap(sizes, "batch_size", "sequence_length")
    shown = ax.collections[0].get_array()
    for column, batch in enumerate(BATCHES):
        for row, sequence in enumerate(SEQUENCES):
            point = sizes[(sizes["batch_size"] == batch) & (sizes["sequence_length"] == sequence)].iloc[0]
            assert bool(np.ma.getmaskarray(shown)[row, column]) == (not point["fits"])
            if point["fits"]:
                assert shown[row, column] == point["tokens_per_s"]
    assert ax.get_xticks().tolist() == list(range(6))
    assert labels_of(ax.xaxis) == ["1", "4", "16", "64", "256", "1,024"]
    assert labels_of(ax.yaxis) == ["256", "1,024", "4,096", "16,384"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("batch size (sequences)", "sequence length (tokens)")
    assert ax.figure.axes[1].get_ylabel() == "throughput (tokens/s)"


def test_what_is_infeasible_is_hatched_and_named(plans):
    """Exactly the cells that do not fit have one hatch, and the impossible ones another."""
    ax = plot_heatmap(plans, "plan", "batch_size")
    names = list(dict.fromkeys(plans["plan"]))
    assert labels_of(ax.xaxis) == names
    for hatch, start in ((DOES_NOT_FIT, "does not fit"), (IMPOSSIBLE, "impossible")):
        rows = plans[plans["reason"].str.startswith(start)]
        expected = {(names.index(p), BATCHES.index(b)) for p, b in zip(rows["plan"], rows["batch_size"], strict=True)}
        assert expected
        assert hatched_cells(ax, hatch) == expected
    entries = ax.get_legend().get_patches()
    assert {patch.get_hatch(): patch.get_label() for patch in entries} == {
        DOES_NOT_FIT: "does not fit in memory",
        IMPOSSIBLE: "impossible",
    }


def test_missing_values_and_points_are_neither_hatched_nor_coloured(sizes):
    """A NaN of a point that fits, and a point that is not in the table, are grey cells of their own in the legend."""
    holes = sizes.drop(index=[0]).assign(tokens_per_s=lambda table: table["tokens_per_s"].where(table.index != 1))
    ax = plot_heatmap(holes, "batch_size", "sequence_length")
    assert legend_of(ax) == ["does not fit in memory", "no value"]
    mask = np.ma.getmaskarray(ax.collections[0].get_array())
    assert mask[0, 0]
    assert mask[1, 0]
    assert mask.sum() == 2 + (~sizes["fits"]).sum()
    assert hatched_cells(ax, DOES_NOT_FIT) == hatched_cells(
        plot_heatmap(sizes, "batch_size", "sequence_length"), DOES_NOT_FIT
    )


@pytest.mark.parametrize(
    ("value", "best", "unit"), [("tokens_per_s", "max", "tokens/s"), ("makespan_s", "min", "ms"), ("mfu", "max", "%")]
)
def test_the_title_names_the_best_point_that_fits(sizes, value, best, unit):
    """The most of what should be large, the least of what should be small."""
    feasible = sizes[sizes["fits"]]
    row = feasible.loc[getattr(feasible[value], f"idx{best}")()]
    title = plot_heatmap(sizes, "batch_size", "sequence_length", value).get_title(loc="left")
    assert f" {unit}, at batch size {row['batch_size']:,}, sequence length {row['sequence_length']:,}" in title


def test_values_far_apart_have_a_logarithmic_colour_bar(sizes):
    """Makespans from milliseconds to many seconds have round ticks on a logarithmic bar."""
    ax = plot_heatmap(sizes, "batch_size", "sequence_length", "makespan_s")
    bar = ax.figure.axes[1]
    assert bar.get_yscale() == "log"
    assert bar.get_ylabel() == "makespan (s)"
    ax.figure.canvas.draw()
    assert {"0.01", "0.1", "1"} <= set(labels_of(bar.yaxis))
    assert plot_heatmap(sizes, "batch_size", "sequence_length", "mfu").figure.axes[1].get_yscale() == "linear"


def test_si_units_of_an_axis_are_readable(sizes):
    """Bytes a second become TB/s."""
    table = sizes[sizes["sequence_length"] == 256]
    table = table.assign(**{"cluster.accelerator.memory_bytes_per_s": table["batch_size"] * 1e12}).drop(
        columns="reason"
    )
    table = table.assign(reason="")[["cluster.accelerator.memory_bytes_per_s", "batch_size", "mfu", "fits", "reason"]]
    ax = plot_heatmap(table, "cluster.accelerator.memory_bytes_per_s", "batch_size", "mfu")
    assert ax.get_xlabel() == "cluster accelerator memory (TB/s)"
    assert labels_of(ax.xaxis)[:2] == ["1", "4"]


def test_long_names_do_not_overlap(plans):
    """Names of plans are wrapped or slanted so that no label covers another."""
    long = plans.assign(plan=plans["plan"] + " with many words in its long name, and then some")
    for table in (long, pd.concat([long.assign(plan=long["plan"] + str(copy)) for copy in range(3)])):
        ax = plot_heatmap(table, "plan", "batch_size")
        ax.figure.canvas.draw()
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        assert len(labels) == table["plan"].nunique()
        if labels[0].get_rotation() == 0:
            boxes = [label.get_window_extent() for label in labels]
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        else:
            assert all(label.get_ha() == "right" for label in labels)


# Lines


def test_lines_go_through_the_points(plans):
    """Each plan's line has its values by rising batch, whole where they fit, broken with open markers elsewhere."""
    ax = plot_lines(plans, "batch_size", by="plan")
    lines = drawn_lines(ax)
    for index, (plan, rows) in enumerate(plans.groupby("plan", sort=False)):
        everything, whole = lines[2 * index : 2 * index + 2]
        fine = rows["fits"].to_numpy()
        assert everything.get_xdata().tolist() == BATCHES
        np.testing.assert_array_equal(everything.get_ydata(), rows["tokens_per_s"].to_numpy())
        np.testing.assert_array_equal(whole.get_ydata(), np.where(fine, rows["tokens_per_s"], np.nan))
        assert (everything.get_linestyle(), whole.get_linestyle()) == ("--", "-")
        assert everything.get_markerfacecolor() == "white"
        assert whole.get_markerfacecolor() == whole.get_color() == everything.get_color()
        assert whole.get_label() == (f"{plan} (impossible)" if plan == "TP3" else plan)
    assert legend_of(ax) == ["TP8", "TP3 (impossible)", "DP2", "PP16", "does not fit in memory"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert labels_of(ax.xaxis) == ["1", "4", "16", "64", "256", "1,024"]
    assert ax.get_ylim()[0] == 0


def test_the_order_of_the_rows_does_not_matter(sizes):
    """A shuffled table gives the same lines, and the same heat map."""
    shuffled = sizes.sample(frac=1, random_state=1)
    for table in (sizes, shuffled):
        ax = plot_lines(table.sort_values("sequence_length", kind="stable"), "batch_size", by="sequence_length")
        assert [line.get_xdata().tolist() for line in drawn_lines(ax)] == [BATCHES] * 8
    first, second = (plot_heatmap(table, "batch_size", "sequence_length") for table in (sizes, shuffled))
    assert rgba(first) == rgba(second)


def test_one_line_needs_no_by(sizes):
    """A single axis makes one line, and the legend says what its markers mean."""
    ax = plot_lines(sizes[sizes["sequence_length"] == 16384], "batch_size", "peak_bytes")
    assert legend_of(ax) == ["fits in memory", "does not fit in memory"]
    assert ax.get_ylabel() == "memory at its peak (GB)"
    assert ax.get_yscale() == "log"


def test_lines_look_different(many):
    """As many lines as are allowed all differ in colour or marker; one more is refused."""
    batch = many["batch_size"].unique()
    ax = plot_lines(many[many["batch_size"].isin(batch[:30])], "sequence_length", by="batch_size")
    looks = [(line.get_color(), line.get_marker()) for line in drawn_lines(ax)[::2]]
    assert len(set(looks)) == len(looks) == 30
    with pytest.raises(InputError, match=r"31 values.*isin"):
        plot_lines(many[many["batch_size"].isin(batch[:31])], "sequence_length", by="batch_size")


def test_a_value_that_is_not_set_has_a_place(sizes):
    """An axis with None among its numbers is drawn by names."""
    table = sizes[sizes["sequence_length"] == 256].iloc[:3].assign(microbatch_size=[np.nan, 1.0, 2.0])
    ax = plot_lines(table[["microbatch_size", "tokens_per_s", "fits", "reason"]], "microbatch_size")
    assert labels_of(ax.xaxis) == ["not set", "1", "2"]
    assert drawn_lines(ax)[0].get_ydata().tolist() == table["tokens_per_s"].tolist()


# Pareto front


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), min_size=1, max_size=25))
def test_the_front_is_what_nothing_beats(points):
    """By definition: no point that fits is as good in both and better in one; equal points are drawn once."""
    table = pd.DataFrame(points, columns=["peak_bytes", "tokens_per_s", "fits"])
    table = table.assign(point=[f"p{index}" for index in range(len(table))], reason="")
    fine = {(cost, gain) for cost, gain, fits in points if fits}
    expected = {(c, g) for c, g in fine if not any(a <= c and b >= g and (a, b) != (c, g) for a, b in fine)}
    ax = plot_pareto(table, "peak_bytes", label="point")
    drawn = ax.lines[1].get_xydata().tolist()
    assert drawn == sorted([float(c), float(g)] for c, g in expected)
    assert len(ax.lines[0].get_xdata()) == sum(fits for *_, fits in points)
    for text in ax.texts:
        if text.get_text().startswith("p"):
            cost, gain, _ = points[int(text.get_text()[1:])]
            assert text.xy == (cost, gain)


def test_the_front_of_a_sweep_is_named_by_its_axes(sizes):
    """The points of the front carry the values of all axes; its ends are always named."""
    ax = plot_pareto(sizes)
    front = ax.lines[1].get_xydata()
    named = {text.xy: text.get_text() for text in ax.texts}
    for first, gain in (front[0], front[-1]):
        row = sizes[(sizes["first_sequence_s"] == first) & (sizes["tokens_per_s"] == gain)].iloc[0]
        words = f"batch size {row['batch_size']:,}, sequence length {row['sequence_length']:,}"
        assert named[first, gain] == words
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time until the first sequence (ms)", "throughput (tokens/s)")
    assert f"{len(front)} of the {sizes['fits'].sum()} points that fit" in ax.get_title(loc="left")


def test_names_on_the_front_cover_nothing(many, sizes):
    """Names lie within the axes, and neither on each other nor on a point of the front."""
    for table, x in ((many, "makespan_s"), (many, "peak_bytes"), (sizes, "first_sequence_s")):
        ax = plot_pareto(table, x)
        ax.figure.canvas.draw()
        boxes = [text.get_window_extent() for text in ax.texts]
        assert len(boxes) > 1
        assert all(box.x0 >= ax.bbox.x0 - 1 for box in boxes)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        pixels = ax.transData.transform(ax.lines[1].get_xydata())
        assert not any(box.contains(*pixel) for box in boxes for pixel in pixels)


def test_label_chooses_the_column(plans):
    """A column given by name is what the labels say."""
    ax = plot_pareto(plans, "peak_bytes", label="plan")
    assert {text.get_text() for text in ax.texts} <= set(plans["plan"])
    assert ax.get_xlabel() == "memory at its peak (GB)"


# What is refused


def test_another_axis_that_varies_is_named(plans, sizes):
    """Several rows for one place: the error names the other axes and how to choose, and the way out works."""
    both = pd.concat([plans.assign(sequence_length=length) for length in (1000, 2000)])
    both = both[["sequence_length", *plans.columns]]
    for draw in (lambda t: plot_heatmap(t, "batch_size", "plan"), lambda t: plot_lines(t, "batch_size", by="plan")):
        with pytest.raises(InputError) as caught:
            draw(both)
        (fault,) = caught.value.faults
        assert fault.field == "table"
        assert "sequence_length" in fault.allowed
        assert "plan.tensor" not in fault.allowed
        assert fault.way_out == "select one value with table[table['sequence_length'] == 1000]"
        draw(both[both["sequence_length"] == 1000])
    with pytest.raises(InputError, match=r"table\[table\['sequence_length'\] == 256\]"):
        plot_lines(sizes, "batch_size")
    with pytest.raises(InputError, match=r"\(table\['sequence_length'\] == 1000\) & \(table\['plan'\] == 'TP8'\)"):
        plot_lines(both, "batch_size")


def test_fields_of_a_plan_are_axes_where_one_is_drawn(plans):
    """Over plan.tensor, another field of the plans may be what makes rows differ."""
    with pytest.raises(InputError) as caught:
        plot_heatmap(plans, "batch_size", "plan.tensor")
    assert "plan.pipeline" in caught.value.faults[0].allowed
    assert "table['plan'] ==" not in caught.value.faults[0].way_out


def test_copies_of_rows_are_refused(sizes):
    """Rows that are there twice have another way out."""
    with pytest.raises(InputError, match="drop_duplicates"):
        plot_heatmap(pd.concat([sizes, sizes]), "batch_size", "sequence_length")


@pytest.mark.parametrize(
    ("draw", "fields"),
    [
        (lambda t: plot_heatmap(t, "batchsize", "sequence_lenght", "token_per_s"), ["x", "y", "value"]),
        (lambda t: plot_lines(t, "batch_sise", by="sequence"), ["x", "by"]),
        (lambda t: plot_pareto(t, "first_sequence", "tokens_per_second", "batch"), ["x", "y", "label"]),
    ],
)
def test_unknown_columns_are_all_named_at_once(sizes, draw, fields):
    """Each unknown column is one fault, with the nearest known one."""
    with pytest.raises(InputError) as caught:
        draw(sizes)
    assert [fault.field for fault in caught.value.faults] == fields
    assert "did you mean" in caught.value.faults[0].way_out


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda t: plot_heatmap(t, "batch_size", "batch_size"), "different"),
        (lambda t: plot_lines(t, "batch_size", by="batch_size"), "different"),
        (lambda t: plot_lines(t, None), "x = None"),
        (lambda t: plot_lines(t, "batch_size", "reason"), "column of numbers"),
        (lambda t: plot_pareto(t, "fits"), "column of numbers"),
        (lambda t: plot_pareto(t.iloc[:0]), "at least one row"),
        (lambda t: plot_pareto(t.drop(columns="fits")), "columns fits and reason"),
        (lambda t: plot_pareto(t.to_dict()), "sweep's table"),
    ],
)
def test_what_cannot_be_drawn_is_refused(sizes, draw, match):
    """The same column twice, text as a value, no rows, no verdicts, no table."""
    with pytest.raises(InputError, match=match):
        draw(sizes)


# What is read from the table


@pytest.mark.parametrize(
    ("values", "geometric"),
    [
        ([1, 2, 4, 8, 16], True),
        ([256, 1024, 4096], True),
        ([1, 2, 3, 4, 5], False),
        ([0, 1, 10, 100], False),
        ([1, 2], False),
        ([100, 101, 102.02], False),
    ],
)
def test_values_by_ratio_ask_for_a_logarithmic_axis(values, geometric):
    """Spacing by ratio is told from spacing by difference; zero, two values and short ranges are linear."""
    assert is_geometric(np.array(values, dtype=float)) == geometric


def test_only_positive_values_far_apart_are_wide():
    """A zero or a NaN alone makes no logarithmic scale."""
    assert is_wide(np.array([1.0, 50.0]))
    assert not is_wide(np.array([1.0, 49.0]))
    assert not is_wide(np.array([-1.0, 50.0]))
    assert not is_wide(np.array([np.nan]))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("makespan_s", 151.1, "151.1 s"),
        ("first_sequence_s", 0.0032, "3.2 ms"),
        ("peak_bytes", 85.5e9, "85.5 GB"),
        ("tokens_per_s", 255_017.0, "255,017 tokens/s"),
        ("tokens_per_s", 12e6, "12 million tokens/s"),
        ("cluster.accelerator.memory_bytes_per_s", 3.35e12, "3.35 TB/s"),
        ("cluster.tiers.0.latency_s", 5e-6, "5 us"),
        ("mfu", 0.4819, "48.19 %"),
        ("plan.tensor", 8, "8"),
        ("makespan_s", 0.0, "0 s"),
    ],
)
def test_units_are_readable(name, value, words):
    """The unit follows from the end of the name and the size of the value."""
    assert Scale.of(name, value).text(value) == words


def test_no_name_loses_its_words():
    """A column that is nothing but a unit keeps its name."""
    assert words_of("s") == "s"
    assert words_of("microbatch_size") == "microbatch size"
    assert words_of("cluster.tiers.0.bytes_per_s") == "cluster tiers 0"


def test_edges_lie_between_the_places(many):
    """Cells meet half-way between neighbours, on the scale of the axis."""
    batch = Column.of(many, "batch_size")
    assert batch.log
    assert (np.diff(np.log(batch.edges)) > 0).all()
    assert np.sqrt(batch.edges[1:] * batch.edges[:-1]) == pytest.approx(batch.place)
    sequence = Column.of(many, "sequence_length")
    assert (sequence.edges[1:] + sequence.edges[:-1]) / 2 == pytest.approx(sequence.place)


def test_columns_after_the_results_are_no_axes(sizes):
    """What a user computes from the results and adds at the end does not count as an axis."""
    assert varying(sizes.assign(mine=sizes["tokens_per_s"] / 16)) == ["batch_size", "sequence_length"]


def test_the_pictures_stand_beside_the_others():
    """The module of all pictures has them too."""
    assert (plots.plot_heatmap, plots.plot_lines, plots.plot_pareto) == (plot_heatmap, plot_lines, plot_pareto)
