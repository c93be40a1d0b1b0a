"""What a wheel built from the sources alone, without git, holds."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
DIST_INFO = f"perfsim-{VERSION}.dist-info"
SOURCES = ["perfsim", "hardware_profiles", "pyproject.toml", "README.md", "LICENSE", ".gitignore"]
BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Give the files of the wheel, by their names inside it."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    target = tmp_path_factory.mktemp("wheel")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [sys.executable, "-c", BUILD, str(target)]
    built = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = target.glob("perfsim-*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_below(folder):
    """Give the files below a folder, by their paths inside it."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_wheel_holds_the_hardware_profiles(wheel):
    """The profiles at the top of the repository travel inside the package, byte for byte."""
    prefix = "perfsim/hardware_profiles/"
    expected = files_below(ROOT / "hardware_profiles")
    assert any(name.endswith(".toml") for name in expected)
    assert {
        name.removeprefix(prefix): content for name, content in wheel.items() if name.startswith(prefix)
    } == expected


def test_wheel_holds_the_whole_package(wheel):
    """Every file below perfsim/ travels: modules, presets and the type marker."""
    expected = {f"perfsim/{name}": content for name, content in files_below(ROOT / "perfsim").items()}
    assert "perfsim/py.typed" in expected
    assert any(name.startswith("perfsim/presets/") for name in expected)
    missing = [name for name, content in expected.items() if wheel.get(name) != content]
    assert not missing


def test_wheel_holds_nothing_else(wheel):
    """Tests, documents and tools stay out of site-packages."""
    assert {name.split("/")[0] for name in wheel} == {"perfsim", DIST_INFO}


def test_wheel_names_the_command_and_the_license(wheel):
    """The wheel installs the command line, and carries its license."""
    assert b"perfsim = perfsim.cli:main" in wheel[f"{DIST_INFO}/entry_points.txt"]
    assert wheel[f"{DIST_INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
