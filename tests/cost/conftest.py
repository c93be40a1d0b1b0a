"""The shipped attention kernels, with a device of their architecture, for the tests of both phases."""

from typing import Any, NamedTuple

import pytest

import perfsim
from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.attention_kernels import read_kernels
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

DEVICES = {"hopper": "dgx-h100", "blackwell": "dgx-b200", "ampere": "dgx-a100-80gb", "ada": "l40s-pcie-8x"}
FILES = [
    path
    for path in sorted((profile_folder() / "kernels").glob("*-*.toml"))
    if path.stem.split("-")[0] in DEVICES and "decode" in read_toml(path)
]


class AttentionSet(NamedTuple):
    """One library's kernels for one phase and pair of data types."""

    accelerator: Any
    kernels: Any
    types: dict


def keys(phase):
    """Give the file and the data types of each shipped set."""
    return [
        pytest.param((path, types), id=f"{path.stem}-{types}") for path in FILES for types in read_toml(path)[phase]
    ]


def attention_set(kind, phase, path, types):
    """Read one set."""
    dtype, kv_dtype = types.split("-")
    device = perfsim.load_cluster(DEVICES[path.stem.split("-")[0]]).accelerator
    return AttentionSet(
        device, read_kernels(kind, read_toml(path)[phase][types]), {"dtype": dtype, "kv_dtype": kv_dtype}
    )


@pytest.fixture(scope="session", params=keys("prefill"))
def prefill_set(request):
    """Give every shipped set of prefill kernels in turn."""
    return attention_set(PrefillCoefficients, "prefill", *request.param)


@pytest.fixture(scope="session", params=keys("decode"))
def decode_set(request):
    """Give every shipped set of decode kernels in turn."""
    return attention_set(DecodeCoefficients, "decode", *request.param)
