"""One ``config.json`` on its way to the fields of a model: values by name, with defaults, and every fault kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from perfsim.errors import Faults, InputError

__all__ = ["NEEDED", "Reading"]

NEEDED = object()
"""The default of what has none."""

_ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "gelu", "silu": "silu", "swish": "silu", "relu": "relu", "relu2": "relu",
}  # fmt: skip
"""Names of activations that cost the same; a squared ReLU moves the bytes of a ReLU."""
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}
_FEED_FORWARD_TYPES = {"dense": False, "sparse": True}


class Reading:
    """Fields of a model, read from a table in Hugging Face's names.

    Attributes
    ----------
    table : mapping
        The configuration of the text model.
    fields : dict
        Fields of `perfsim.Model` that were read; wrong values among them are judged there.
    faults : Faults
        What the table itself has wrong, under the names that its writer knows.
    expert_path, shared_path : str
        A linear layer of routed and of shared experts below the name of a layer, by which lists of modules that are
        not quantised speak of them.
    """

    expert_path = "mlp.experts.0.down_proj"
    shared_path = "mlp.shared_experts.down_proj"

    def __init__(self, table: Mapping[str, Any], faults: Faults) -> None:
        self.table = table
        self.faults = faults
        self.fields: dict[str, Any] = {}
        self._keys: dict[str, str] = {}

    def take(self, field: str, *keys: str, default: Any = NEEDED, null: Any = NEEDED) -> None:
        """Read a field from the first of `keys` that is there, or from the key of its own name.

        An explicit null is a value of its own if `null` says which, and otherwise as good as nothing.
        """
        keys = keys or (field,)
        there = [key for key in keys if self.table.get(key) is not None]
        if there:
            self.put(field, self.table[there[0]], there[0])
        elif null is not NEEDED and any(key in self.table for key in keys):
            self.put(field, null, keys[0])
        elif default is not NEEDED:
            self.put(field, default, keys[0])
        else:
            self.put(field, None, keys[0])
            self.fault(keys[0], "is missing", "add it")

    def put(self, field: str, value: Any, key: str) -> None:
        """Set a field that follows from `key`, under whose name its faults are told."""
        self.fields[field] = value
        self._keys[field] = key

    def take_activation(self, *keys: str, default: str) -> None:
        """Read the activation of the MLP; names that cost the same are one."""
        self.take("hidden_act", *keys, default=default)
        name, key = self.fields["hidden_act"], self._keys["hidden_act"]
        if self.faults.choice(key, name, _ACTIVATIONS):
            self.fields["hidden_act"] = _ACTIVATIONS[name]
        else:
            del self.fields["hidden_act"]

    def integer(self, key: str, default: int, *, minimum: int = 0) -> int:
        """Give a whole number to calculate with; the default where there is none or a wrong one."""
        value = self.table.get(key)
        if value is None or not self.faults.integer(key, value, minimum=minimum):
            return default
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """Give a boolean to decide by; the default where there is none or a wrong one."""
        value = self.table.get(key)
        if value is None or not self.faults.flag(key, value):
            return default
        return bool(value)

    def refuse(self, key: str, what: str, value: object = None) -> None:
        """Record that the model has something that perfsim does not know."""
        self.fault(key, f"is not supported: {what}", value=value)

    def fault(self, key: str, allowed: str, way_out: str = "", value: object = None) -> None:
        """Record a fault of a key, whose value is that of the table unless said otherwise; the first one counts."""
        if not self._is_at_fault(key):
            self.faults.add(key, self.table.get(key) if value is None else value, allowed, way_out)

    def _is_at_fault(self, key: str) -> bool:
        return any(known.field == f"{self.faults.prefix}.{key}" for known in self.faults.found)

    @property
    def layers(self) -> int:
        """Number of layers, 0 while it is wrong: then nothing can be told layer by layer."""
        value = self.fields.get("num_hidden_layers")
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10_000 else 0  # noqa: PLR2004

    def take_windows(self, default: int | None, is_windowed: Callable[[int], bool]) -> None:
        """Read which layers have a sliding window: from ``layer_types``, or from the rule of the family."""
        self.take("sliding_window", default=default, null=None)
        flags = self._typed_layers("layer_types", _LAYER_TYPES)
        if flags is None:
            none = self.fields["sliding_window"] is None
            flags = tuple(not none and is_windowed(layer) for layer in range(self.layers))
        if self.fields["sliding_window"] is None and any(flags):
            self.fault("sliding_window", "is missing: layer_types has windowed layers", "add it")
        if not any(flags):
            self.fields["sliding_window"] = None
        elif not all(flags):
            self.put("windowed_layers", flags, "layer_types")

    def take_expert_layers(self, key: str, has_experts: Callable[[int], bool]) -> None:
        """Read which layers have experts: from ``mlp_layer_types``, or from the rule of the family at `key`."""
        flags = self._typed_layers("mlp_layer_types", _FEED_FORWARD_TYPES)
        if flags is None:
            flags = tuple(has_experts(layer) for layer in range(self.layers))
        if self.layers and not any(flags):
            self.fault(key, "leaves no layer with experts", f"layers are counted from 0 to {self.layers - 1}")
        elif not all(flags):
            self.put("expert_layers", flags, key)

    def _typed_layers(self, key: str, types: Mapping[str, bool]) -> tuple[bool, ...] | None:
        """Read a list with a type for every layer; None where there is none or a wrong one."""
        names = self.table.get(key)
        if names is None:
            return None
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            self.fault(key, "must be a list of texts, one for each layer")
            return None
        unknown = sorted(set(names) - types.keys())
        if unknown:
            self.refuse(key, f"layers other than {' and '.join(types)}", ", ".join(unknown))
            return None
        if self.layers and len(names) != self.layers:
            self.fault(key, f"must have {self.layers} entries, one for each layer", value=f"{len(names)} entries")
            return None
        return tuple(types[name] for name in names)

    def adopt(self, error: InputError) -> None:
        """Record what a model finds wrong with the fields, under the keys that they came from."""
        for fault in error.faults:
            field = fault.field.partition(".")[2]
            key = self._keys.get(field, field)
            if not self._is_at_fault(key):
                self.faults.found.append(dataclasses.replace(fault, field=f"{self.faults.prefix}.{key}"))
