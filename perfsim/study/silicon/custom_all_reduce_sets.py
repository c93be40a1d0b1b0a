"""Which tables of the serving engines' all-reduces are fitted together, and up to which payload they run.

The limits are those of the engines' own code where it has a table of them (vLLM, SGLang; compared with ``<`` up to
vLLM 0.19), else the last measured payload at which the time differs from NCCL's. Siblings share coefficients where that
costs less than half a point of error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from perfsim.units import MIB

__all__ = ["CUSTOM_SETS", "CustomSet"]


class CustomSet(NamedTuple):
    """One fit of an engine's all-reduce.

    Attributes
    ----------
    systems : tuple of str
    library, version : str
        The engine, and the version of it that was measured.
    limit_bytes : mapping of int to int
        Largest payload of its own kernels, by group size.
    """

    systems: tuple[str, ...]
    library: str
    version: str
    limit_bytes: Mapping[int, int]


_HOPPER, _BLACKWELL = ("h100_sxm", "h200_sxm"), ("b200_sxm", "b300_sxm")
_TRTLLM, _VLLM, _SGLANG = ("trtllm", "1.3.0rc20"), ("vllm", "0.24.0"), ("sglang", "0.5.14")

CUSTOM_SETS = (
    CustomSet(("a100_sxm",), "trtllm", "1.0.0", {2: MIB, 4: MIB, 8: MIB}),
    CustomSet(("a100_sxm",), "vllm", "0.14.0", {2: 8 * MIB - 1, 4: 8 * MIB - 1, 8: 8 * MIB - 1}),
    CustomSet(("a100_sxm",), "sglang", "0.5.10", {2: 8 * MIB, 4: 8 * MIB, 8: 8 * MIB}),
    CustomSet(_HOPPER, *_TRTLLM, {2: 8 * MIB, 4: MIB, 8: MIB // 2}),
    CustomSet(("h100_sxm",), *_VLLM, {2: 64 * MIB, 4: 32 * MIB, 8: 64 * MIB}),
    CustomSet(("h200_sxm",), *_VLLM, {2: 64 * MIB, 4: 32 * MIB, 8: 64 * MIB}),
    CustomSet(_HOPPER, *_SGLANG, {2: 16 * MIB, 4: 16 * MIB, 8: 16 * MIB}),
    CustomSet(_BLACKWELL, *_TRTLLM, {2: 16 * MIB, 4: 16 * MIB, 8: 32 * MIB}),
    CustomSet(("b200_sxm",), *_VLLM, {2: 8 * MIB, 4: 32 * MIB, 8: 128 * MIB}),
    CustomSet(("b300_sxm",), *_VLLM, {2: 4 * MIB, 4: 32 * MIB, 8: 64 * MIB}),
    CustomSet(_BLACKWELL, *_SGLANG, {2: 16 * MIB, 4: 16 * MIB, 8: 16 * MIB}),
    CustomSet(("gb200",), *_TRTLLM, {2: 16 * MIB, 4: 16 * MIB}),
    CustomSet(("gb200",), *_VLLM, {2: 4 * MIB, 4: 8 * MIB}),
    CustomSet(("gb200",), *_SGLANG, {2: 16 * MIB, 4: 16 * MIB}),
    CustomSet(("gb300",), *_TRTLLM, {2: 16 * MIB, 4: 16 * MIB, 8: 1024 * MIB, 16: 1024 * MIB}),
    CustomSet(("gb300",), *_VLLM, {2: 4 * MIB, 4: 32 * MIB}),
    CustomSet(("gb300",), *_SGLANG, {2: 16 * MIB, 4: 16 * MIB, 8: 16 * MIB}),
    CustomSet(("l40s",), "vllm", "0.14.0", {2: 8 * MIB - 1}),
    CustomSet(("l40s",), *_SGLANG, {2: 8 * MIB}),
)
