"""Coefficients of tiled matrix multiplication: what one kernel library makes of one architecture, for one data type.

The equations that they stand in are those of `perfsim.cost.tiled_matmul`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED
from perfsim.errors import Faults
from perfsim.spec.tables import build, freeze_fields

__all__ = ["Quantiser", "Tile", "TiledMatmul", "coefficients_of", "nearest_table", "tiled_matmul_for"]

T = TypeVar("T")

_NOT_COEFFICIENTS = ("fit", "source")  # what a table of a coefficient file holds beside them
_SAME_KERNELS = {"fp16": "bf16"}
_NEAREST = {"fp8_block": ("fp8_block", "fp8", "bf16"), "fp8": ("fp8", "fp8_block", "bf16")}
_OFF_WHEN_ZERO = ("cold_k_step_s", "split_step_s", "split_traffic", "throttling", "result_l2_weight", "tile_edge_cost")


@dataclass(frozen=True)
class Tile:
    """A candidate: how a kernel cuts a multiplication.

    Attributes
    ----------
    rows, columns : int
        Of the piece of the result that one block of threads computes.
    splits : int
        Pieces that the depth is cut into.
    relative_time : float
        Near 1. A candidate stands for several kernels, and this is how they, or the library's liking for them, differ
        from the formula.
    """

    rows: int
    columns: int
    splits: int = 1
    relative_time: float = 1.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("tile")
        for name in ("rows", "columns", "splits"):
            faults.integer(name, getattr(self, name))
        faults.number("relative_time", self.relative_time)
        faults.raise_if_any()


@dataclass(frozen=True)
class Quantiser:
    """The kernel in front of an fp8 multiplication that scales its activations; static scales need none.

    Attributes
    ----------
    launch_s : float
    memory_efficiency : float
        Fraction of the memory bandwidth that it reaches.
    bytes_per_element : float
        Traffic of one activation: 5 where a first pass looks for the maximum, 3 where each block has its own scale.
    """

    launch_s: float
    memory_efficiency: float
    bytes_per_element: float = 3.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("quantiser")
        faults.number("launch_s", self.launch_s, at_most=1.0)
        faults.number("memory_efficiency", self.memory_efficiency, at_most=1.0)
        faults.number("bytes_per_element", self.bytes_per_element)
        faults.raise_if_any()


@dataclass(frozen=True)
class TiledMatmul:
    """Coefficients of one kernel library on one architecture, for one data type.

    Attributes
    ----------
    launch_s : float
        Time of a kernel that does nothing, started from a CUDA graph.
    compute_efficiency : float
        Fraction of the dense peak that an endless tile reaches.
    memory_efficiency : float
        Fraction of the memory bandwidth that streaming reaches.
    l2_bytes_per_clock, staging_bytes_per_clock, epilogue_bytes_per_clock : float
        Rates of one multiprocessor: from L2, into shared memory, and of results out of it.
    k_step_s : float
        Latency of one 128-byte step along the depth with the weight in L2.
    cold_k_step_s : float
        What is added to it when the weight comes from memory.
    wave_overlap : float
        0 where a last wave costs a full one, 1 where the multiprocessors never wait for each other.
    split_s, split_step_s, split_traffic : float
        Of split-K: its fixed time, its time for each split, and how often the partial results pass L2.
    throttling : float
        Exponent of the loss of clock in long multiplications.
    l2_share, l2_sharpness : float
        The fraction of L2 where half of the accesses still hit, and how sudden it is.
    result_l2_weight : float
        How much a byte of result takes of L2, compared with a byte of operand.
    tiles : tuple of Tile
        Candidates. They are effective lists, not the libraries' real ones.
    tile_edge_cost : float
        Extra compute time of a tile, over its ideal time, times its edge length: what filling the matrix units costs.
    tile_s : float
        Fixed time of a tile, beside which others of its multiprocessor run.
    single_row_bandwidth : float
        Factor on the bandwidth for one row, where libraries have kernels of their own.
    few_rows_latency : float
        Factor on the latency of a step for at most 8 rows.
    blocks_per_sm : float
        Tiles that one multiprocessor holds at once, at most.
    k_block : int
        The depth is rounded up to this.
    quantiser : Quantiser or None
        The kernel that quantises the activations first.
    single_precision : bool
        Whether times are computed in single precision, which is enough for times but not for their derivatives. No
        property of a kernel, so no coefficient file has it.
    """

    launch_s: float
    compute_efficiency: float
    memory_efficiency: float
    l2_bytes_per_clock: float
    staging_bytes_per_clock: float
    epilogue_bytes_per_clock: float
    k_step_s: float
    cold_k_step_s: float
    wave_overlap: float
    split_s: float
    split_step_s: float
    split_traffic: float
    throttling: float
    l2_share: float
    l2_sharpness: float
    result_l2_weight: float
    tiles: tuple[Tile, ...]
    tile_edge_cost: float = 0.0
    tile_s: float = 0.0
    single_row_bandwidth: float = 1.0
    few_rows_latency: float = 1.0
    blocks_per_sm: float = 4.0
    k_block: int = 64
    quantiser: Quantiser | None = None
    single_precision: bool = True

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("matmul")
        for name, value in vars(self).items():
            if name in {"tiles", "k_block", "quantiser", "single_precision"}:
                continue
            if name in {*_OFF_WHEN_ZERO, "tile_s", "wave_overlap"} and value == 0:
                continue
            fraction = name.endswith("efficiency") or name == "wave_overlap"
            faults.number(name, value, at_most=1.0 if fraction else float("inf"))
        faults.integer("k_block", self.k_block)
        faults.flag("single_precision", self.single_precision)
        if not self.tiles or not all(isinstance(tile, Tile) for tile in self.tiles):
            faults.add("tiles", self.tiles, "must be a list of at least one Tile")
        if self.quantiser is not None:
            faults.instance("quantiser", self.quantiser, Quantiser)
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> TiledMatmul:
        """Read a table of a coefficient file.

        Raises
        ------
        InputError
            A key is missing or unknown, or a value is out of range.
        """
        return coefficients_of(cls, table, "matmul")

    def to_table(self) -> dict[str, Any]:
        """Give the table that `from_table` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "single_precision"}


def coefficients_of(kind: type[T], table: Mapping[str, Any], name: str) -> T:
    """Make the coefficients of one operator from its table, beside which the table says how they were found."""
    faults = Faults(name)
    found = build(kind, {key: value for key, value in table.items() if key not in _NOT_COEFFICIENTS}, faults)
    faults.raise_if_any()
    return found  # type: ignore[return-value]  # None has raised


def nearest_table(tables: Mapping[str, Mapping[str, Any]], operator: str, dtype: str) -> tuple[str, bool] | None:
    """Find the table of an operator that is nearest to a data type, and whether it is its own.

    Another scaling of the same eight bits comes before ``bf16``; ``fp16`` runs the kernels of ``bf16``.

    Examples
    --------
    >>> tables = {"matmul.bf16": {}, "matmul.fp8": {}}
    >>> [nearest_table(tables, "matmul", dtype) for dtype in ("fp16", "fp8_block", "int8")]
    [('matmul.bf16', True), ('matmul.fp8', False), ('matmul.bf16', False)]
    """
    own = _SAME_KERNELS.get(dtype, dtype)
    for name in _NEAREST.get(own, (own, "bf16")):
        if f"{operator}.{name}" in tables:
            return f"{operator}.{name}", name == own
    return None


def tiled_matmul_for(tables: Mapping[str, Mapping[str, Any]], dtype: str) -> tuple[TiledMatmul, str] | None:
    """Choose the coefficients that price a data type, and say where they come from.

    A data type without a set of its own takes the nearest one (`nearest_table`). Its multiplications then scale with
    the peak and the bytes of the data type, which the caller gives to `perfsim.cost.tiled_matmul`.

    Parameters
    ----------
    tables : mapping of str to mapping
        Of one kernel library: ``matmul.bf16`` and so on, each as in its coefficient file. A table may say its `source`.
    dtype : str
        ``fp16`` runs the kernels of ``bf16``.

    Returns
    -------
    tuple of (TiledMatmul, str) or None
        None where there is no set to start from.

    Examples
    --------
    >>> tables = {"matmul.bf16": dict(
    ...     launch_s=2.8e-6, compute_efficiency=0.86, memory_efficiency=0.84, l2_bytes_per_clock=144,
    ...     staging_bytes_per_clock=463, epilogue_bytes_per_clock=19.4, k_step_s=77e-9, cold_k_step_s=30e-9,
    ...     wave_overlap=0.78, split_s=2.4e-6, split_step_s=1e-8, split_traffic=3.8, throttling=0.058, l2_share=0.7,
    ...     l2_sharpness=9.4, result_l2_weight=1.4, tiles=[{"rows": 128, "columns": 256}])}
    >>> [tiled_matmul_for(tables, dtype)[1] for dtype in ("bf16", "fp16", "int8")]
    ['calibrated', 'calibrated', 'extrapolated']
    """
    found = nearest_table(tables, "matmul", dtype)
    if found is None:
        return None
    key, own = found
    return TiledMatmul.from_table(tables[key]), str(tables[key].get("source", CALIBRATED)) if own else EXTRAPOLATED
