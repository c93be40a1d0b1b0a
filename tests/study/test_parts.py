"""The files of a sweep: written as it goes, taken up again, and never anybody else's."""

import contextlib
import json
import random
import shutil

import pandas as pd
import pytest

import perfsim
from perfsim.study import sweep as sweep_module
from perfsim.study.parts import Parts
from perfsim.study.sweep import sweep

SIZES = {"batch_size": [1, 2, 3], "sequence_length": [10, 20, 30, 40]}
FINGERPRINT = {"scenario": {"a": 1}, "axes": [{"name": "batch_size"}], "block": 5}


@pytest.fixture(scope="module")
def base(improved):
    """Give the improved plan with one layer a stage."""
    return improved.with_(num_hidden_layers=2, batch_size=4, sequence_length=100)


@pytest.fixture
def small_blocks(monkeypatch):
    """Make blocks of five points; twelve points are three of them."""
    monkeypatch.setattr(sweep_module, "BLOCK", 5)


@pytest.fixture
def evaluated(monkeypatch):
    """Give a list of the points that are evaluated, block by block."""
    blocks, evaluate_block = [], sweep_module.evaluate_block

    def spy(scenario, axes, points):
        blocks.append(points.tolist())
        return evaluate_block(scenario, axes, points)

    monkeypatch.setattr(sweep_module, "evaluate_block", spy)
    return blocks


@pytest.fixture
def written(base, small_blocks, tmp_path):
    """Give the folder of a sweep of three blocks that went to its end, and its table."""
    folder = tmp_path / "kept"
    return folder, sweep(base, path=folder, progress=False, **SIZES)


def part_files(folder):
    """Give the files of a folder that hold points, in order."""
    return sorted(folder.glob("*.parquet"))


def same(found, wanted):
    """Compare two tables, to the bit and with what they carry."""
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    assert found.attrs == wanted.attrs


def test_a_file_for_every_block_and_one_about_the_sweep(base, written):
    """Any program that reads Parquet can read them; together they are the table."""
    folder, table = written
    files = part_files(folder)
    assert [path.name for path in folder.iterdir() if path not in files] == ["sweep.json"]
    assert [len(pd.read_parquet(path)) for path in files] == [5, 5, 2]
    together = pd.concat([pd.read_parquet(path) for path in files])
    pd.testing.assert_frame_equal(together, table, check_exact=True)
    about = json.loads((folder / "sweep.json").read_text())
    assert about["version"] == perfsim.__version__
    assert about["scenario"]["plan"]["tensor"] == base.plan.tensor
    assert [axis["values"] for axis in about["axes"]] == list(SIZES.values())


def test_the_table_is_the_same_with_files_and_without(base, written):
    """Writing changes nothing."""
    same(written[1], sweep(base, progress=False, **SIZES))


def test_every_block_is_written_as_soon_as_it_is_done(base, small_blocks, monkeypatch, tmp_path):
    """When the second is evaluated the first is there."""
    there, evaluate_block = [], sweep_module.evaluate_block

    def spy(*args):
        there.append(len(part_files(tmp_path / "kept")))
        return evaluate_block(*args)

    monkeypatch.setattr(sweep_module, "evaluate_block", spy)
    sweep(base, path=tmp_path / "kept", progress=False, **SIZES)
    assert there == [0, 1, 2]


def test_a_finished_sweep_is_only_read(base, written, evaluated, contents):
    """Nothing is computed and nothing is written."""
    folder, table = written
    before = contents(folder)
    same(sweep(base, path=str(folder), progress=False, **SIZES), table)
    assert evaluated == []
    assert contents(folder) == before


@pytest.mark.parametrize("missing", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_only_what_is_missing_is_computed(base, written, evaluated, missing):
    """Whichever blocks are there."""
    folder, table = written
    for number, file in enumerate(part_files(folder)):
        if number in missing:
            file.unlink()
    same(sweep(base, path=folder, progress=False, **SIZES), table)
    assert evaluated == [table.index[5 * number : 5 * number + 5].tolist() for number in missing]
    assert len(part_files(folder)) == 3


@pytest.mark.parametrize(
    ("axes", "values"),
    [
        ({"dtype": [None, "fp8"]}, "texts, none given"),
        ({"microbatch_size": [None, 1]}, "numbers, none given"),
        ({"tensor": [3, 8]}, "impossible points"),
        ({"plan": {"a": perfsim.Plan(2), "b": perfsim.Plan(4, 2)}}, "plans"),
        ({"workload": {"a": perfsim.Workload(), "b": perfsim.Workload(dtype="fp8")}}, "workloads"),
        ({"layers_per_stage": [(1, 1), None]}, "layers"),
        ({"plan": [perfsim.Plan(2, 2, layers_per_stage=(1, 1)), perfsim.Plan(2, 2)]}, "plans with layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_was_taken_up_again_is_the_same(base, tmp_path, axes, values):
    """Whatever its columns hold, value by value and type by type."""
    fresh = sweep(base, path=tmp_path / "kept", progress=False, **axes)
    again = sweep(base, path=tmp_path / "kept", progress=False, **axes)
    same(again, fresh)
    assert [type(value) for value in again.iloc[:, 0]] == [type(value) for value in fresh.iloc[:, 0]], values


@pytest.mark.parametrize("name", ["efficiency", "accelerator", "tiers"])
def test_nested_parts_can_be_kept(base, tmp_path, name):
    """Any field of the cluster may vary, also one that holds more than a number."""
    axes = {f"cluster.{name}": [getattr(base.cluster, name)]}
    fresh = sweep(base, path=tmp_path / "kept", progress=False, **axes)
    same(sweep(base, path=tmp_path / "kept", progress=False, **axes), fresh)


def test_a_folder_is_made_where_there_is_none(base, tmp_path):
    """With those above it."""
    sweep(base, path=tmp_path / "a" / "b", progress=False, batch_size=[1])
    assert len(part_files(tmp_path / "a" / "b")) == 1
    (tmp_path / "empty").mkdir()
    sweep(base, path=tmp_path / "empty", progress=False, batch_size=[1])
    assert len(part_files(tmp_path / "empty")) == 1


def assert_refused_untouched(refused, contents, folder, call, *words):
    """The fault names the place, says the words, and nothing in the folder has changed."""
    before = contents(folder)
    (fault,) = refused(call)
    assert fault.field == "path"
    assert str(folder) in str(fault.value)
    assert fault.way_out
    for word in words:
        assert word in str(fault)
    assert contents(folder) == before


DIFFERENT = {
    "another scenario": ({"batch_size": 5}, SIZES, "scenario"),
    "another cluster": ({"cluster.accelerator.memory_bytes_per_s": 1e12}, SIZES, "scenario"),
    "other values": ({}, {**SIZES, "batch_size": [1, 2, 4]}, "axes"),
    "more values": ({}, {**SIZES, "batch_size": [1, 2, 3, 4]}, "axes"),
    "another axis": ({}, {"batch_size": [1, 2, 3], "tensor": [1, 2, 4, 8]}, "axes"),
    "another order of axes": ({}, dict(reversed(SIZES.items())), "axes"),
    "other labels": ({}, {**SIZES, "batch_size": {"a": 1, "b": 2, "c": 3}}, "axes"),
}


@pytest.mark.parametrize(("changes", "axes", "differs"), DIFFERENT.values(), ids=DIFFERENT)
def test_the_folder_of_another_sweep_is_refused(refused, contents, base, written, *, evaluated, changes, axes, differs):
    """It says what differs, computes nothing and leaves everything as it is."""
    folder, _ = written
    call = lambda: sweep(base.with_(**changes), path=folder, progress=False, **axes)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call, "another sweep", differs)
    assert evaluated == []


@pytest.mark.parametrize("key", ["version", "block"])
def test_the_folder_of_another_version_is_refused(refused, contents, base, written, key):
    """Its figures may be others, or its blocks of other lengths."""
    folder, _ = written
    about = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**about, key: "0.0.1"}))
    call = lambda: sweep(base, path=folder, progress=False, **SIZES)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call, f"differs in {key}")


NOT_ABOUT = {
    "broken": b'{"version": ',
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"1",
    "nothing": b"null",
    "another table": b'{"name": "x"}',
}


@pytest.mark.parametrize("content", NOT_ABOUT.values(), ids=NOT_ABOUT)
def test_a_broken_description_is_refused(refused, contents, base, written, content):
    """Whatever JSON it is, or is not."""
    folder, _ = written
    (folder / "sweep.json").write_bytes(content)
    call = lambda: sweep(base, path=folder, progress=False, **SIZES)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call)


def test_a_folder_with_other_files_is_refused(refused, contents, base, tmp_path):
    """It is somebody else's, even where Parquet files lie in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(folder / "part-000000000000.parquet")
    call = lambda: sweep(base, path=folder, progress=False, **SIZES)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call, "not of a sweep")


def test_a_file_in_place_of_the_folder_is_refused(refused, contents, base, tmp_path):
    """Itself, or above."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        (fault,) = refused(sweep, base, path=path, progress=False, batch_size=[1])
        assert fault.field == "path"
    assert contents(tmp_path) == {"file": b"mine"}


def test_what_a_killed_process_left_behind_is_no_obstacle(base, written, evaluated):
    """Unfinished files lie in hidden folders of their own."""
    folder, table = written
    (folder / ".perfsim-left").mkdir()
    (folder / ".perfsim-left" / "new").write_bytes(b"PAR1")
    same(sweep(base, path=folder, progress=False, **SIZES), table)
    assert evaluated == []


NOT_PARTS = {
    "no Parquet": lambda path, table: path.write_bytes(b"mine"),
    "empty": lambda path, table: path.write_bytes(b""),
    "cut off": lambda path, table: path.write_bytes(path.read_bytes()[:-100]),
    "cut to half": lambda path, table: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "another table": lambda path, table: pd.DataFrame({"a": [1, 2]}).to_parquet(path),
    "too many points": lambda path, table: table.iloc[:6].to_parquet(path),
    "an axis missing": lambda path, table: table.iloc[:5].drop(columns="batch_size").to_parquet(path),
    "axes only": lambda path, table: table.iloc[:5][list(SIZES)].to_parquet(path),
    "a figure missing": lambda path, table: table.iloc[:5].drop(columns="makespan_s").to_parquet(path),
    "too few points": lambda path, table: table.iloc[:4].to_parquet(path),
    "no points": lambda path, table: table.iloc[:0].to_parquet(path),
    "points of another block": lambda path, table: table.iloc[5:10].to_parquet(path),
    "unknown points": lambda path, table: table.iloc[:5].set_axis(range(100, 105)).to_parquet(path),
    "points in another order": lambda path, table: table.iloc[[1, 0, 2, 3, 4]].reset_index(drop=True).to_parquet(path),
    "values of another sweep": lambda path, table: table.iloc[:5].assign(batch_size=64).to_parquet(path),
}


@pytest.mark.parametrize("spoil", NOT_PARTS.values(), ids=NOT_PARTS)
def test_a_broken_or_foreign_part_is_refused(refused, contents, base, written, spoil):
    """It is named, and neither overwritten nor believed."""
    folder, table = written
    first = part_files(folder)[0]
    spoil(first, table)
    call = lambda: sweep(base, path=folder, progress=False, **SIZES)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call, first.name)


def test_a_part_beyond_the_last_point_is_refused(refused, contents, base, written):
    """There is no such block."""
    folder, _ = written
    first = part_files(folder)[0]
    stranger = first.with_name(first.name.replace("000000000000", "000000000500"))
    shutil.copy(first, stranger)
    call = lambda: sweep(base, path=folder, progress=False, **SIZES)  # noqa: E731
    assert_refused_untouched(refused, contents, folder, call, stranger.name)


def damaged(whole, begin, end, count=60):
    """Give copies of a file with one bit flipped somewhere between two places."""
    dice = random.Random(0)  # noqa: S311  (not for secrets)
    for _ in range(count):
        copy = bytearray(whole)
        copy[dice.randrange(begin, end)] ^= 1 << dice.randrange(8)
        yield bytes(copy)


def footer_of(whole):
    """Give where the data of a Parquet file ends and its description begins; its length stands before the last word."""
    return len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")


def test_damaged_data_are_noticed(base, written):
    """One flipped bit: refused, or without effect on what is read; never another figure."""
    folder, table = written
    file = part_files(folder)[0]
    whole = file.read_bytes()
    for copy in damaged(whole, 4, footer_of(whole)):
        file.write_bytes(copy)
        with contextlib.suppress(perfsim.InputError):
            same(sweep(base, path=folder, progress=False, **SIZES), table)


def test_a_damaged_description_is_no_raw_error(base, written):
    """Refused, or without effect on the axes and on the kinds of columns."""
    folder, table = written
    file = part_files(folder)[0]
    whole = file.read_bytes()
    for copy in damaged(whole, footer_of(whole), len(whole), count=150):
        file.write_bytes(copy)
        with contextlib.suppress(perfsim.InputError):
            found = sweep(base, path=folder, progress=False, **SIZES)
            pd.testing.assert_frame_equal(found[list(SIZES)], table[list(SIZES)])
            assert found.dtypes.equals(table.dtypes)


def test_parts_bear_the_number_of_their_first_point(written):
    """So that they sort as they were counted."""
    names = [file.name for file in part_files(written[0])]
    assert names == [f"part-{first:012d}.parquet" for first in (0, 5, 10)]


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path):
    """No half of a file."""
    parts = Parts.open(tmp_path / "kept", FINGERPRINT)
    with pytest.raises(Exception, match="object"):
        parts.write(0, pd.DataFrame({"batch_size": [object()]}))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["sweep.json"]
