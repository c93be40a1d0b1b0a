"""What the tests of studies share: the three seed plans with few sequences, compared, and a picture of a folder."""

import pytest

import perfsim


@pytest.fixture(scope="session")
def comparison(seeds):
    """Give the comparison of the three seed plans."""
    return perfsim.compare(seeds, baseline="seed-baseline")


@pytest.fixture(scope="session")
def small_result(improved):
    """Give a result that is quick to write: TP4 x PP2, two layers."""
    return perfsim.simulate(improved.with_(num_hidden_layers=2, tensor=4, batch_size=6))


@pytest.fixture(scope="session")
def contents():
    """Give a function that reads every file below a folder, hidden ones too, by relative path."""

    def read(folder):
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
