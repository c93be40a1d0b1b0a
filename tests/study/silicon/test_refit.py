"""The command that fits every shipped coefficient again: what it calls, and what it refuses."""

import pytest

from perfsim.errors import InputError
from perfsim.study.silicon import __main__ as command


@pytest.fixture
def called(monkeypatch):
    """Give the names of the parts that were fitted, without fitting any."""
    names = []
    for name in command._FITS:
        monkeypatch.setitem(command._FITS, name, lambda name=name: names.append(name))
    monkeypatch.setattr(command, "tables_folder", lambda: None)
    return names


def test_fits_all_parts_or_those_that_are_named(called):
    """In an order that does not depend on the call."""
    command.refit()
    assert called == ["matmul", "grouped_matmul", "attention", "communication", "memory_bound", "serving"]
    called.clear()
    command.refit(["attention"])
    assert called == ["attention"]


def test_refuses_unknown_parts(called):
    """A wrong name must not fit everything else first."""
    with pytest.raises(InputError, match="did you mean 'matmul'"):
        command.refit(["matmull", "attention"])
    assert called == []
