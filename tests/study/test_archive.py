"""Saved results: the same again, and a clear word where a file is none or is of another version."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim


def repack(path, *, about=None, **arrays):
    """Write a saved result again with changes: values of its description, or whole arrays."""
    with np.load(path) as archive:
        parts = {name: archive[name] for name in archive.files}
    described = {**json.loads(str(parts["about"])), **(about or {})}
    np.savez_compressed(path, **{**parts, "about": np.array(json.dumps(described)), **arrays})
    return path


@pytest.fixture
def saved(small_result, tmp_path):
    """Give the path of a saved result."""
    return perfsim.save_result(small_result, tmp_path / "result.npz")


@settings(max_examples=15)
@given(data=st.data())
def test_a_result_survives_the_file(data, small_scenarios, tmp_path_factory):
    """Scenario, times and every table, folded or in full, on either engine."""
    engine, detail = data.draw(st.sampled_from(["compiled", "simpy"])), data.draw(st.sampled_from(["folded", "full"]))
    result = perfsim.simulate(data.draw(small_scenarios), engine=engine, detail=detail)
    again = perfsim.load_result(perfsim.save_result(result, tmp_path_factory.mktemp("saved") / "r.npz"))
    assert (again.scenario, again.engine, again.detail) == (result.scenario, engine, detail)
    assert again.run.timeline.end_ps.tobytes() == result.run.timeline.end_ps.tobytes()
    assert again.summary.equals(result.summary)
    assert again.timeline.equals(result.timeline)
    assert again.memory.equals(result.memory)


def test_the_file_says_what_made_it(saved):
    """Version, engine, detail and the scenario with every number."""
    with np.load(saved) as archive:
        about = json.loads(str(archive["about"]))
    assert about["version"] == perfsim.__version__
    assert about["scenario"]["cluster"]["accelerator"]["l2_bytes"] == 52_428_800


def test_other_costs_are_refused_with_a_way_out(refused, saved, small_result):
    """And simulated again when that is asked for."""
    repack(saved, about={"costs": "0" * 64, "version": "0.0.1"})
    (fault,) = refused(perfsim.load_result, saved)
    assert "was made by perfsim 0.0.1" in fault.allowed
    assert "rerun=True" in fault.way_out
    again = perfsim.load_result(saved, rerun=True)
    assert again.run.timeline.end_ps.tobytes() == small_result.run.timeline.end_ps.tobytes()


def test_times_of_another_length_are_refused(refused, saved, small_result):
    """They cannot belong to the scenario."""
    repack(saved, end_ps=small_result.run.timeline.end_ps[:-1])
    (fault,) = refused(perfsim.load_result, saved)
    assert fault.field == "path"


def test_a_file_that_fits_needs_no_rerun(saved, small_result):
    """The saved times are taken as they are."""
    repack(saved, end_ps=small_result.run.timeline.end_ps + 5)
    assert perfsim.load_result(saved, rerun=True).run.makespan_ps == small_result.run.makespan_ps + 5


def test_another_format_is_refused(refused, saved):
    """A later one cannot be guessed at."""
    (fault,) = refused(perfsim.load_result, repack(saved, about={"format": 2}))
    assert "must have format 1" in fault.allowed


def test_a_missing_file_and_a_folder_are_refused(refused, tmp_path):
    """With the path."""
    for path in (tmp_path / "none.npz", tmp_path):
        (fault,) = refused(perfsim.load_result, path)
        assert (fault.field, fault.value) == ("path", str(path))
        assert fault.way_out == "give a file that save_result wrote"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn", b"\x80\x04."])
def test_foreign_files_are_refused(refused, tmp_path, content):
    """Whatever they hold; a pickle is not loaded."""
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    (fault,) = refused(perfsim.load_result, path)
    assert "is not a saved result" in fault.allowed


def test_a_single_array_is_refused(refused, tmp_path):
    """NumPy reads such a file, but it is no archive."""
    path = tmp_path / "array.npz"
    with path.open("wb") as stream:
        np.save(stream, np.arange(3))
    (fault,) = refused(perfsim.load_result, path)
    assert "is not a saved result" in fault.allowed


def test_another_archive_is_refused(refused, tmp_path):
    """One of arrays, and one of texts."""
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with zipfile.ZipFile(tmp_path / "texts.npz", "w") as archive:
        archive.writestr("about", "hello")
        archive.writestr("end_ps", "hello")
    for name in ("other.npz", "texts.npz"):
        (fault,) = refused(perfsim.load_result, tmp_path / name)
        assert "is not a saved result" in fault.allowed


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(refused, saved, kept):
    """Wherever the copy broke off."""
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    (fault,) = refused(perfsim.load_result, saved)
    assert "is not a saved result" in fault.allowed


def test_spoilt_bytes_are_refused(refused, saved):
    """At any place that matters: the file never loads as something else."""
    content = saved.read_bytes()
    expected = perfsim.load_result(saved).summary
    for place in range(40, len(content), len(content) // 40):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert perfsim.load_result(saved).summary.equals(expected)
        except perfsim.InputError as error:
            assert error.faults[0].field == "path"  # noqa: PT017


@pytest.mark.parametrize(
    "about", [{"scenario": None}, {"scenario": "seed-improved"}, {"detail": 7}, {"engine": "other"}, {"costs": None}]
)
def test_spoilt_descriptions_are_refused(refused, saved, about):
    """Each part of the description is looked at before it is used."""
    assert refused(perfsim.load_result, repack(saved, about=about))


@pytest.mark.parametrize("missing", ["scenario", "detail", "engine", "costs", "version"])
def test_incomplete_descriptions_are_refused(refused, saved, missing):
    """Also where the format is right."""
    with np.load(saved) as archive:
        about, end_ps = json.loads(str(archive["about"])), archive["end_ps"]
    del about[missing]
    np.savez_compressed(saved, about=np.array(json.dumps(about)), end_ps=end_ps)
    assert refused(perfsim.load_result, saved)


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_times_of_another_type_are_refused(refused, saved, small_result, dtype):
    """Picoseconds are whole numbers of 64 bits."""
    repack(saved, end_ps=small_result.run.timeline.end_ps.astype(dtype))
    assert refused(perfsim.load_result, saved)


@pytest.mark.parametrize("shape", [(), (1, -1)])
def test_times_of_another_shape_are_refused(refused, saved, small_result, shape):
    """They are one row."""
    ends = small_result.run.timeline.end_ps
    repack(saved, end_ps=ends.reshape(shape) if shape else ends[0])
    (fault,) = refused(perfsim.load_result, saved)
    assert "must be one row" in fault.allowed


def test_only_npz_is_written(refused, small_result, tmp_path):
    """The way out gives the name to write."""
    (fault,) = refused(perfsim.save_result, small_result, tmp_path / "result.json")
    assert fault.way_out == f"write {tmp_path / 'result.npz'}"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_refused(refused, small_result, tmp_path):
    """Below a file there is no folder."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (fault,) = refused(perfsim.save_result, small_result, tmp_path / "file" / "result.npz")
    assert "cannot be written to" in fault.allowed
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_saving_again_replaces(saved, small_result):
    """And leaves nothing beside it."""
    other = perfsim.simulate(small_result.scenario.with_(batch_size=7))
    perfsim.save_result(other, saved)
    assert perfsim.load_result(saved).makespan_s == other.makespan_s
    assert list(saved.parent.iterdir()) == [saved]


def test_a_disturbed_result_survives_the_file(improved, tmp_path):
    """With its conditions and the durations that came about."""
    conditions = perfsim.Conditions(slowdowns=(perfsim.Slowdown(3, 2.0, start_s=0.01),), jitter=0.1, seed=7)
    result = perfsim.simulate(improved.with_(batch_size=2), engine="simpy", detail="full", conditions=conditions)
    again = perfsim.load_result(perfsim.save_result(result, tmp_path / "disturbed.npz"))
    assert again.conditions == conditions
    assert again.timeline.equals(result.timeline)
    assert again.load_balance.equals(result.load_balance)
