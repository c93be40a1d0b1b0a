"""What a profile may leave out. A rule fills each gap, and becomes the source of the number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perfsim.errors import Faults
from perfsim.units import KIB, MIB

__all__ = ["fill_gaps", "profile_template"]

Table = dict[str, Any]

DEVICES_OF_A_SERVER = 8
_PEAKS_PER_16_BIT = (("bf16", 1), ("fp16", 1), ("fp8", 2), ("int8", 2), ("fp4", 4), ("tf32", 0.5), ("fp32", 1 / 16))
_TEXTS = ("vendor", "architecture")
_MEASURED_BY_KERNELS = ("sm_count", "clock_hz", "l2_bytes")
"""What the times of fitted kernels depend on, so that no rule can stand in for it there."""


def _number(value: object, least: float, otherwise: float) -> float:
    """Give a number as it is; what is wrong has a fault of its own, and must not give what rests on it another."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and value >= least
    return float(value) if good else otherwise  # type: ignore[arg-type]


def _peak_16_bit(device: Mapping[str, Any]) -> float:
    peaks = device.get("peak_flop_per_s")
    known = peaks if isinstance(peaks, Mapping) else {}
    return next(
        (_number(known[dtype], 1e9, 1e15) / ratio for dtype, ratio in _PEAKS_PER_16_BIT if dtype in known), 1e15
    )


def _vector_rate(device: Mapping[str, Any]) -> float:
    peaks = device.get("peak_flop_per_s")
    known = peaks.get("fp32") if isinstance(peaks, Mapping) else None
    return _number(known, 1e9, _peak_16_bit(device) / 16)


def _multiprocessors(device: Mapping[str, Any]) -> int:
    return max(1, round(_peak_16_bit(device) / (4096 * _number(device.get("clock_hz"), 1e6, 1.5e9))))


_ACCELERATOR: dict[str, tuple[Callable[[Mapping[str, Any]], float], str]] = {
    "vector_flop_per_s": (_vector_rate, "the fp32 peak, or a 16th of the 16-bit peak, as on the A100"),
    "clock_hz": (lambda _: 1.5e9, "1.5 GHz; no time depends on it"),
    "sm_count": (_multiprocessors, "as many as give the 16-bit peak with Hopper's 4096 FLOP a clock each"),
    "shared_memory_bytes_per_sm": (lambda _: 64 * KIB, "64 KiB, the least of the shipped profiles"),
    "l2_bytes": (lambda _: 40 * MIB, "40 MiB, the least of the shipped profiles"),
    "tdp_watt": (lambda _: 700.0, "that of the H100; no time depends on it"),
}
_INNERMOST_HOP = (1e-6, "1 us, a middle value of the innermost tiers of the shipped profiles")
_OUTER_HOP = (2.7e-6, "the hop between nodes in NCCL's own tuning table, as in the shipped profiles")
_MIDDLE = "a middle value of the shipped profiles"
_EFFICIENCY = {
    "matmul": 0.65, "attention": 0.5, "memory": 0.83, "network": 0.7, "kernel_s": 2.8e-6, "collective_s": 4.9e-6,
}  # fmt: skip
_IN_SWITCH = {"network_in_switch": 0.6, "in_switch_s": 75e-6}


def fill_gaps(parts: Table, sources: dict[str, str], faults: Faults, *, kernels: bool) -> None:
    """Add what the tables of a profile leave out, and the rule behind it to the sources.

    Parameters
    ----------
    parts : dict
        The plain tables of a profile; changed in place.
    sources : dict
        Sources by the dotted names of numbers; changed in place.
    faults : Faults
        Collects what must be given after all.
    kernels : bool
        Whether the profile names fitted kernels, for which no rule knows the device well enough.
    """
    device, tiers = parts.get("accelerator"), parts.get("tiers")
    if isinstance(device, dict):
        for key in _MEASURED_BY_KERNELS if kernels else ():
            if key not in device:
                allowed = "must be given where there are [kernels]: their times depend on it"
                faults.add(f"accelerator.{key}", None, allowed, "take it from the datasheet, or leave [kernels] out")
        device |= {key: "unknown" for key in _TEXTS if key not in device}
        rules = {key: (value(device), rule) for key, (value, rule) in _ACCELERATOR.items()}
        _fill("accelerator", device, rules, sources)
    tiers = [tier for tier in tiers if isinstance(tier, dict)] if isinstance(tiers, list) else []
    for index, tier in enumerate(tiers):
        _fill(f"tiers.{index}", tier, {"latency_s": _OUTER_HOP if index else _INNERMOST_HOP}, sources)
    efficiency = parts.setdefault("efficiency", {})
    if isinstance(efficiency, dict):
        in_switch = any(tier.get("reduces_in_switch") is True for tier in tiers)
        fractions = _EFFICIENCY | (_IN_SWITCH if in_switch else {})
        _fill("efficiency", efficiency, {key: (value, _MIDDLE) for key, value in fractions.items()}, sources)
    domain = tiers[0].get("domain_size") if tiers else None
    parts.setdefault("num_devices", DEVICES_OF_A_SERVER if domain is None else domain)


def _fill(path: str, table: Table, rules: Mapping[str, tuple[float, str]], sources: dict[str, str]) -> None:
    for key, (value, rule) in rules.items():
        if key not in table:
            table[key] = value
            sources[f"{path}.{key}"] = f"default: {rule}"


_TEMPLATE = """\
# A cluster of your own. Put in the numbers of the datasheet, and load it with perfsim.load_cluster("my-cluster.toml").
# Lines behind a # are what perfsim takes when they are left out.

name = "my-cluster"
source = "Data sheet of the maker, 2025"        # where the numbers come from; a table may have a source of its own
num_devices = 8

[accelerator]
name = "My GPU"
peak_flop_per_s = { bf16 = 181e12, fp8 = 362e12 }   # dense; many datasheets print twice that, with sparsity
memory_bytes = 48e9
memory_bytes_per_s = 864e9
"""
_TEMPLATE_TIERS = """
[[tiers]]                                       # the innermost first
name = "pcie"
domain_size = 8                                 # devices that one domain joins; left out in the outermost tier
bytes_per_s = 32e9                              # of one device, in one direction

[[tiers]]
name = "ethernet"
bytes_per_s = 12.5e9                            # 100 Gb/s a device
# oversubscription = 1                          # 2 where the switches carry half of what the devices can send
"""


def profile_template() -> str:
    """Text of a small profile to start from: what must be given, and behind ``#`` what is taken for the rest.

    Examples
    --------
    >>> import tomllib
    >>> sorted(tomllib.loads(profile_template()))
    ['accelerator', 'name', 'num_devices', 'source', 'tiers']
    """
    import tomllib

    sources: dict[str, str] = {}
    parts = tomllib.loads(_TEMPLATE + _TEMPLATE_TIERS)
    fill_gaps(parts, sources, Faults(), kernels=False)

    def rest(path: str) -> str:
        table = parts[path]
        keys = [name.removeprefix(f"{path}.") for name in sources if name.startswith(f"{path}.")]
        return "".join(f"# {f'{k} = {table[k]:.9g}':<46}# {sources[f'{path}.{k}']}\n" for k in keys)

    return f"{_TEMPLATE}{rest('accelerator')}{_TEMPLATE_TIERS}\n# [efficiency]\n{rest('efficiency')}"
