"""How the weights of a checkpoint are stored: from ``quantization_config`` or NVIDIA's ``hf_quant_config.json``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from perfsim.errors import Faults

__all__ = ["quantization_fields"]

_METHODS = {
    "awq": "int4", "compressed-tensors": "", "fbgemm_fp8": "fp8", "fp8": "fp8", "gptq": "int4", "modelopt": "",
    "mxfp4": "mxfp4",
}  # fmt: skip
"""What each method stores; nothing where its groups tell."""
_ALGORITHMS = {
    "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_WO": "fp8_block", "NVFP4": "nvfp4", "INT4_AWQ": "int4",
    "W4A16_AWQ": "int4",
}  # fmt: skip
_WEIGHTS_ONLY = {"int 4": "int4", "float 4 by 32": "mxfp4"}
_WITH_ACTIVATIONS = {"float 8": "fp8", "int 8": "int8", "float 4 by 16": "nvfp4", "float 4 by 32": "mxfp4"}
"""What groups of weights are: their type and bits, and how many share a scale where that matters."""
_LEFT_OUT = ("ignore", "exclude_modules", "modules_to_not_convert")
_FOUR_BITS = 4


def quantization_fields(table: object, modules: Mapping[str, Sequence[str]], faults: Faults) -> dict[str, str]:
    """Give `quantization` of a model and its two exceptions, from the table of a checkpoint.

    Parameters
    ----------
    table : object
        What stands under ``quantization_config``, or in ``hf_quant_config.json``.
    modules : mapping of str to sequence of str
        For ``attention_quantization``, ``quantization`` (MLPs and shared experts) and ``expert_quantization``: the full
        names of the modules that it speaks of, empty where the model has none.
    faults : Faults
        Takes what is wrong or not supported.

    Returns
    -------
    dict of str to str
        Each of the three counts as most of its modules do: a checkpoint lists those that it leaves as they were.
    """
    if isinstance(table, Mapping) and isinstance(table.get("quantization"), Mapping):
        table, faults = table["quantization"], faults.inside("quantization")
    if not isinstance(table, Mapping):
        faults.add("", table, "must be a table of keys and values")
        return {}
    stored = _stored(table, faults)
    left_out = _LeftOut(table, faults)
    if stored is None or not any(modules.values()):
        return {}
    chosen = {field: _of_most(stored, names, left_out) for field, names in modules.items() if names}
    if table.get("quant_method") == "mxfp4" and "expert_quantization" in chosen:
        chosen = dict.fromkeys(chosen, "none") | {"expert_quantization": stored}  # this method knows nothing else
    common = chosen.get("quantization", chosen["attention_quantization"])
    return {"quantization": common} | {field: value for field, value in chosen.items() if value != common}


def _stored(table: Mapping[str, Any], faults: Faults) -> str | None:
    """Name how quantised weights are stored; None, with a fault, where that is not known."""
    if table.get("quant_algo") is not None:
        algorithm = table["quant_algo"]
        return _ALGORITHMS[algorithm] if faults.choice("quant_algo", algorithm, _ALGORITHMS) else None
    method, groups = table.get("quant_method"), table.get("config_groups")
    if isinstance(groups, Mapping):
        return _grouped(groups, faults.inside("config_groups"))
    if not faults.choice("quant_method", method, _METHODS):
        return None
    name = _METHODS[str(method)]
    if name == "int4" and (bits := table.get("bits", table.get("w_bit", _FOUR_BITS))) != _FOUR_BITS:
        faults.add("bits", bits, "is not supported: weights of other than 4 bits beside 16-bit activations")
    if not name:
        faults.add("config_groups", groups, "must be a table: it tells how weights are stored")
        return None
    return "fp8_block" if table.get("weight_block_size") else name


def _grouped(groups: Mapping[str, Any], faults: Faults) -> str | None:
    """Name what all groups of a compressed checkpoint have in common."""
    found = {_group(group) for group in groups.values()}
    name = found.pop() if len(found) == 1 else None
    if name is None:
        faults.add(
            "", sorted(groups), "is not supported: weights and activations stored in this way, or in several ways",
            "known are weights of fp8, int8 and nvfp4 with activations alike, and of int4 and mxfp4 alone",
        )  # fmt: skip
    return name


def _group(group: Any) -> str | None:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    kind = f"{weights.get('type')} {weights.get('num_bits')}"
    size = weights.get("group_size")
    if group.get("input_activations") is None:
        return _WEIGHTS_ONLY.get(f"{kind} by {size}", _WEIGHTS_ONLY.get(kind))
    if kind == "float 8" and weights.get("strategy") == "block":
        return "fp8_block"
    return _WITH_ACTIVATIONS.get(f"{kind} by {size}", _WITH_ACTIVATIONS.get(kind))


class _LeftOut:
    """The modules that a checkpoint leaves as they were.

    An entry is the name of a module or of one that holds it, perhaps with wildcards, or a regular expression after
    ``re:``. Checkpoints of the same model put different words before ``layers``, so those do not count.
    """

    def __init__(self, table: Mapping[str, Any], faults: Faults) -> None:
        self.names: set[str] = set()
        self.patterns: list[re.Pattern[str]] = []
        for key in _LEFT_OUT:
            entries = table.get(key) or ()
            if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
                faults.add(key, entries, "must be a list of texts")
                continue
            for entry in entries:
                self._add(entry, key, faults)

    def _add(self, entry: str, key: str, faults: Faults) -> None:
        if entry.startswith("re:"):
            try:
                self.patterns.append(re.compile(rf"\A(?:{entry[3:]})"))
            except re.error as error:
                faults.add(key, entry, f"must be a regular expression ({error})")
            return
        parts = entry.split(".")
        parts = parts[parts.index("layers") :] if "layers" in parts else [part for part in parts if part != "*"]
        name = ".".join(parts)
        if "*" in name:
            words = "[^.]*".join(re.escape(text) for text in name.split("*"))
            self.patterns.append(re.compile(rf"(?:\A|\.){words}(?:\.|\Z)"))
        else:
            self.names.add(name)

    def __contains__(self, module: str) -> bool:
        words = module.split(".")
        spans = itertools.combinations(range(len(words) + 1), 2)
        return any(".".join(words[start:end]) in self.names for start, end in spans) or any(
            pattern.search(module) for pattern in self.patterns
        )


def _of_most(stored: str, modules: Sequence[str], left_out: _LeftOut) -> str:
    quantized = sum(module not in left_out for module in modules)
    return stored if 2 * quantized > len(modules) else "none"
