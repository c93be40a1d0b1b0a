"""What a bug report contains."""

import getpass
import platform
import re
import socket
import tomllib
from pathlib import Path

import perfsim
from perfsim.versions import LIBRARIES

ROOT = Path(__file__).resolve().parent.parent


def test_versions_are_those_of_this_computer(capsys):
    """Nothing is printed but what is asked for; the object prints itself."""
    found = perfsim.show_versions()
    assert capsys.readouterr() == ("", "")
    assert found["perfsim"] == perfsim.__version__
    assert platform.python_version() in found["Python"]
    assert re.match(r"\d+", found["CPUs"])
    assert "aiconfigurator-core" in found["coefficients fitted to"]
    assert all(f"{name} " in str(found) for name in found.entries)
    assert repr(found) == str(found)


def test_all_libraries_are_listed():
    """Those that perfsim requires, and those of the extras that are for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cluster"], *extras["silicon"]]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    assert names <= set(LIBRARIES)


def test_what_is_not_there_is_said(monkeypatch):
    """A missing library is no error."""
    monkeypatch.setattr("perfsim.versions.LIBRARIES", ("numpy", "no-such-library"))
    found = perfsim.show_versions()
    assert found["no-such-library"] == "not installed"
    assert found["numpy"][0].isdigit()


def test_nobody_is_named():
    """Neither the computer nor its user: the text is made to be sent."""
    text = str(perfsim.show_versions()).lower()
    for name in (socket.gethostname(), str(Path.home())):
        assert len(name) < 4 or name.lower() not in text
    assert f"/{getpass.getuser()}/" not in text
