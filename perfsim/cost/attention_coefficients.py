"""The coefficients of attention kernels: what a fit determines, and the structure that it takes as given.

`perfsim.cost.prefill_attention` and `perfsim.cost.decode_attention` have the formulas that they stand in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from perfsim.cost.attention_kernels import check_coefficients, read_coefficients, write_coefficients
from perfsim.spec.tables import FrozenDict

__all__ = ["DecodeCoefficients", "PrefillCoefficients"]


@dataclass(frozen=True)
class PrefillCoefficients:
    """What a fit determines for one prefill kernel on one architecture and for one pair of data types.

    Attributes
    ----------
    kernel : str
        Name of the kernel.
    head_dims : tuple of int
        Head dimensions with measurements, ascending; the tuples below have one entry for each.
    query_tile, key_tile : tuple of int
        Rows and columns of a CTA's tile.
    compute_efficiency : tuple of float
        Fraction of the dense matrix peak that the two products of a tile reach.
    cta_clocks : tuple of float
        Clocks that a CTA costs before and after its tiles: prologue, last store, scheduling.
    softmax_clocks : float
        Clocks of one multiprocessor for the softmax of one score (1/16 is the rate of 16 exponentials a clock).
    launch_s : float
        Fixed seconds of the operator inside a CUDA graph.
    activation_bytes_per_clock : float
        Bytes of Q and output that one multiprocessor moves in a clock in the parts that do not overlap.
    kv_write_bytes_per_clock : float
        The same for new K and V that go to the cache.
    token_clocks : float
        Clocks of one multiprocessor for a block of the cache-write kernel, which takes one token.
    hbm_efficiency : float
        Fraction of the memory bandwidth that activations too large for L2 see.
    l2_share : float
        Share of L2 up to which activations stay there from one step to the next.
    chain_factor : float
        Weight of the longest multiprocessor against the mean of all.
    overlap : float
        Exponent of the norm between the two, from 1 (they add) upwards (the longer one counts).
    token_block_elements : float
        Elements of K that fill a block of the cache-write kernel; narrower ones are cheaper in proportion. 0 makes a
        token's cost constant.
    uneven_group_penalty : float
        Relative cost of tiles whose rows do not hold whole tokens of a packed group.
    split_s : float
        Seconds to combine the parts when few CTAs split their keys.
    packs_query_heads, splits_keys, pads_head_dim : bool
        Structure: PackGQA; keys split over idle multiprocessors; head padded to the next dimension with a kernel.
    window_slack : float
        Keys beyond the window that the kernel computes before it masks them.
    head_dim_above, head_dim_up_to : float
        Head dimensions that the library serves with this kernel: above the first, up to the second.
    clock_ratios : mapping of str to float
        Clock that an accelerator, by its name, sustains against the set's first, both as fractions of the datasheet's.
    """

    BY_HEAD_DIM: ClassVar = ("query_tile", "key_tile", "compute_efficiency", "cta_clocks")

    kernel: str
    head_dims: tuple[int, ...]
    query_tile: tuple[int, ...]
    key_tile: tuple[int, ...]
    compute_efficiency: tuple[float, ...]
    cta_clocks: tuple[float, ...]
    softmax_clocks: float
    launch_s: float
    activation_bytes_per_clock: float
    kv_write_bytes_per_clock: float
    token_clocks: float
    hbm_efficiency: float
    l2_share: float
    chain_factor: float
    overlap: float
    token_block_elements: float = 0.0
    uneven_group_penalty: float = 0.0
    split_s: float = 0.0
    packs_query_heads: bool = False
    splits_keys: bool = False
    pads_head_dim: bool = False
    window_slack: float = 0.0
    head_dim_above: float = 0.0
    head_dim_up_to: float = math.inf
    clock_ratios: FrozenDict = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        check_coefficients(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> PrefillCoefficients:
        """Read one kernel of a coefficient file; unknown, missing and impossible entries are one `InputError`."""
        return read_coefficients(cls, table)

    def to_table(self) -> dict[str, Any]:
        """Give the table that `from_table` reads."""
        return write_coefficients(self)


@dataclass(frozen=True)
class DecodeCoefficients:
    """What a fit determines for one decode kernel on one architecture with one data type in the cache.

    Attributes
    ----------
    kernel : str
        Name of the kernel.
    head_dims : tuple of int
        Head dimensions with measurements, ascending; the tuples have one entry for each.
    launch_s : tuple of float
        Fixed seconds of the operator inside a CUDA graph.
    cta_clocks : tuple of float
        Clocks of a multiprocessor for a CTA without its keys.
    key_clocks : tuple of float
        Clocks of a multiprocessor for one key of one KV head (the matrix products and the softmax).
    head_clocks : float
        Clocks that each query head adds to a CTA, per 128 of head dimension.
    wide_group_cost : float
        Relative growth of `key_clocks` per 8 query heads above 8.
    chain_clocks : float
        Latency in clocks of one key in one CTA, per 128 of head dimension.
    hbm_efficiency : float
        Fraction of the memory bandwidth that a large cache streams at.
    l2_speedup : float
        How much faster a cache in L2 streams than one in memory.
    l2_share : float
        Share of L2 up to which a cache that was just read is still there.
    overlap, overlap_waves : float
        How the work of CTAs hides behind memory, and after how many waves half of it does.
    chain_overlap : float
        Exponent of the norm that joins the longest chain.
    split_s : float
        Seconds to combine the parts of split keys.
    split_steps : bool
        Whether combining costs the same from the second part on, instead of growing to it.
    regroup_s : float
        Fixed seconds of the copies that put the query heads of a KV head together, where neither the batch nor K is 1.
    serial_s, serial_growth_s : float
        Seconds that every KV head of every sequence adds one after the other, and their growth with the batch.
    serial_beyond_s : float
        The same from `serial_batch` sequences on, where such a kernel takes another path.
    serial_batch : float
        0 for kernels without such a part.
    chain_limit : float
        Keys of a CTA after which further ones no longer lengthen its chain.
    ctas_per_sm, keys_per_split, max_splits, key_tile : float
        Structure of the split rule: CTAs that fill a multiprocessor, fewest keys of a part, most parts, and the keys
        that a CTA handles at least.
    split_rounding : str
        ``up`` or ``down`` to whole numbers of splits, or ``none``, for kernels that balance uneven parts.
    splits_context : bool
        Whether the splits count the whole context, though a window hides most of it.
    rereads_kv : bool
        Whether each query head reads the cache itself.
    least_fill : float
        0, or the library takes this kernel only where that many times ``B K max(1, floor(S / 128))`` CTAs fill the GPU
        (TensorRT-LLM's rule for XQA against its masked multi-head kernel, with 4).
    group_above, group_up_to, head_dim_above, head_dim_up_to : float
        Group sizes G = H / K and head dimensions that the library serves with this kernel: above the first, up to the
        second.
    clock_ratios : mapping of str to float
        Clock and bandwidth that an accelerator, by its name, sustains against the set's first, both as fractions of the
        datasheet's.
    """

    BY_HEAD_DIM: ClassVar = ("launch_s", "cta_clocks", "key_clocks")

    kernel: str
    head_dims: tuple[int, ...]
    launch_s: tuple[float, ...]
    cta_clocks: tuple[float, ...]
    key_clocks: tuple[float, ...]
    head_clocks: float
    wide_group_cost: float
    chain_clocks: float
    hbm_efficiency: float
    l2_speedup: float
    l2_share: float
    overlap: float
    overlap_waves: float
    chain_overlap: float
    split_s: float
    split_steps: bool = False
    regroup_s: float = 0.0
    serial_s: float = 0.0
    serial_growth_s: float = 0.0
    serial_beyond_s: float = 0.0
    serial_batch: float = 0.0
    chain_limit: float = math.inf
    ctas_per_sm: float = 1.0
    keys_per_split: float = 128.0
    max_splits: float = 16.0
    key_tile: float = 1.0
    split_rounding: str = "none"
    splits_context: bool = False
    rereads_kv: bool = False
    least_fill: float = 0.0
    group_above: float = 0.0
    group_up_to: float = math.inf
    head_dim_above: float = 0.0
    head_dim_up_to: float = math.inf
    clock_ratios: FrozenDict = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        check_coefficients(self, split_rounding=("up", "down", "none"))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> DecodeCoefficients:
        """Read one kernel of a coefficient file; unknown, missing and impossible entries are one `InputError`."""
        return read_coefficients(cls, table)

    def to_table(self) -> dict[str, Any]:
        """Give the table that `from_table` reads."""
        return write_coefficients(self)
