"""The shipped coefficients of collectives and memory-bound kernels are what the public tables give."""

import pytest

pytest.importorskip("aiconfigurator_core", reason="the public tables are an extra: pip install 'perfsim[silicon]'")

from perfsim.cost.calibration.collective import COLUMNS
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.communication import file_name, held_back_runs, write_communication
from perfsim.study.silicon.communication_tables import LINK_BYTES_PER_S, custom_all_reduce_rows, nccl_rows
from perfsim.study.silicon.custom_all_reduce_sets import CUSTOM_SETS
from perfsim.study.silicon.memory_bound import write_memory_bound


def close(found, wanted):
    """Tell whether two tables agree in their numbers, to four digits or nearly."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == (wanted if isinstance(wanted, str | bool) else pytest.approx(wanted, rel=2e-3, abs=2e-2))


@pytest.mark.slow
def test_the_tables_give_the_shipped_collectives(tmp_path):
    """All systems, all operations, all engines, and the errors beside them."""
    written = write_communication(tmp_path)
    assert {path.stem for path in written} == {file_name(system) for system in LINK_BYTES_PER_S}
    for path in written:
        assert close(read_toml(path), read_toml(profile_folder() / "kernels" / path.name)), path.name


@pytest.mark.slow
def test_the_tables_give_the_shipped_memory_bound_kernels(tmp_path):
    """All devices and classes."""
    path = write_memory_bound(tmp_path)
    assert close(read_toml(path), read_toml(profile_folder() / "kernels" / path.name))


def test_rows_are_in_si_units_and_obey_light():
    """One direction of a link carries at least half of an all-gather between two."""
    rows = nccl_rows()
    assert set(COLUMNS) <= set(rows.columns)
    assert set(rows["op"]) == {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}
    assert set(rows["system"]) == set(LINK_BYTES_PER_S)
    gathers = rows[(rows["op"] == "all_gather") & (rows["num_devices"] == 2)]
    assert (gathers["latency_s"] > gathers["payload_bytes"] / 2 / gathers["bytes_per_s"]).all()
    assert rows["latency_s"].max() < 10


def test_every_set_of_an_engine_has_rows_for_each_of_its_limits():
    """A version or a group size that the tables do not have would ship nothing."""
    rows = custom_all_reduce_rows()
    for one in CUSTOM_SETS:
        for system in one.systems:
            mine = (rows["system"] == system) & (rows["library"] == one.library) & (rows["version"] == one.version)
            assert set(one.limit_bytes) <= set(rows[mine & (rows["mode"] == "graph")]["num_devices"])


def test_reported_errors_meet_the_goals():
    """Mean absolute error of held-back runs of NCCL on NVLink, and of engines on every other payload, in percent."""
    nccl, custom = [], []
    for system in LINK_BYTES_PER_S.keys() - {"l40s", "rtx_pro_6000_server"}:
        tables = read_toml(profile_folder() / "kernels" / f"{file_name(system)}.toml")
        nccl += [
            tables[op]["fit"]["errors"][system] for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
        ]
        custom += [table["fit"]["errors"][system] for table in tables["custom_all_reduce"].values()]
    for errors, goal in ((nccl, 3.5), (custom, 4.5)):
        assert sum(one["n"] * one["mape"] for one in errors) / sum(one["n"] for one in errors) < goal


def test_held_back_rows_are_whole_runs_or_another_data_type():
    """No fit sees them: fits take the other rows in half precision."""
    rows = nccl_rows()
    held = held_back_runs(rows)
    for system, group in rows[held].groupby("system"):
        half = rows[(rows["system"] == system) & (rows["dtype"] == "half")]
        if half["run"].nunique() > 1:
            assert set(group["dtype"]) == {"half"}
            assert group["run"].nunique() == 1
            assert len(group) == (half["run"] == group["run"].iloc[0]).sum()
        else:
            assert set(group["dtype"]) == {"int8"}
    assert set(rows[held]["system"]) == set(LINK_BYTES_PER_S)
