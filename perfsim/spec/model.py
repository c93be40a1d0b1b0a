"""WHAT runs: a transformer model, in the field names of Hugging Face's ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from perfsim.errors import Faults, InputError
from perfsim.spec.tables import build, find_file, freeze_fields, preset_names, read_json
from perfsim.units import DTYPE_BYTES

__all__ = ["Model", "list_models", "load_model"]

_MOST, _MOST_LAYERS = 10_000_000, 10_000
"""Far beyond any model; what is larger is a typing error that would take for ever to build."""
_TORCH_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Model:
    """A stack of identical decoder layers: norm, attention, residual, norm, MLP, residual.

    The stack is bare: it takes and gives hidden states, with neither embedding nor final norm nor head. Linear
    layers and norms have no biases.

    Attributes
    ----------
    name : str
    num_hidden_layers, hidden_size, num_attention_heads, intermediate_size : int
    num_key_value_heads : int, optional
        Heads of K and V (grouped-query attention); as many as attention heads when left out.
    head_dim : int, optional
        ``hidden_size / num_attention_heads`` when left out.
    hidden_act : str
        Activation of the MLP; ``gelu``.
    torch_dtype : str
        Data type of weights and activations.

    Examples
    --------
    >>> import perfsim
    >>> model = perfsim.load_model("llm-16l-8192")
    >>> model.num_parameters
    12885164032
    """

    name: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "gelu"
    torch_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("model")
        faults.text("name", self.name)
        sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
        good = [faults.integer(name, getattr(self, name), maximum=_MOST) for name in sizes]
        if good[0] and self.num_hidden_layers > _MOST_LAYERS:
            faults.add("num_hidden_layers", self.num_hidden_layers, f"must be at most {_MOST_LAYERS:,}")
        faults.choice("hidden_act", self.hidden_act, ("gelu",))
        faults.choice("torch_dtype", self.torch_dtype, _TORCH_DTYPES)
        if all(good):
            self._fill_heads(faults)
        faults.raise_if_any()

    def _fill_heads(self, faults: Faults) -> None:
        """Give the optional head fields their defaults and check them."""
        heads = self.num_attention_heads
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", heads)
        elif faults.integer("num_key_value_heads", self.num_key_value_heads) and heads % self.num_key_value_heads:
            faults.add(
                "num_key_value_heads", self.num_key_value_heads, f"must divide the {heads} attention heads",
                f"the divisors are {_divisors(heads)}",
            )  # fmt: skip
        if self.head_dim is None:
            if self.hidden_size % heads:
                faults.add(
                    "hidden_size", self.hidden_size, f"must be a multiple of the {heads} attention heads",
                    "or give head_dim",
                )  # fmt: skip
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        else:
            faults.integer("head_dim", self.head_dim)

    @property
    def kv_heads(self) -> int:
        """Heads of K and of V."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def dtype(self) -> str:
        """Data type of weights and activations, as hardware profiles name it."""
        return _TORCH_DTYPES[self.torch_dtype]

    @property
    def parameters_per_layer(self) -> int:
        """Weights of one layer: Q, K, V and output projections, two MLP matrices, two norms."""
        query_width = self.num_attention_heads * self.head_size
        kv_width = self.kv_heads * self.head_size
        attention = self.hidden_size * (query_width + 2 * kv_width) + query_width * self.hidden_size
        mlp = 2 * self.hidden_size * self.intermediate_size
        return attention + mlp + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model."""
        return self.num_hidden_layers * self.parameters_per_layer

    def kv_cache_bytes_per_token(self, kv_dtype: str) -> int:
        """Bytes of K and V that one token leaves in all layers."""
        return 2 * self.num_hidden_layers * self.kv_heads * self.head_size * DTYPE_BYTES[kv_dtype]


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def _preset_folder() -> Path:
    return Path(str(resources.files("perfsim"))) / "presets" / "models"


def list_models() -> tuple[str, ...]:
    """Names of the shipped models, sorted.

    Examples
    --------
    >>> import perfsim
    >>> perfsim.list_models()
    ('llm-16l-8192',)
    """
    return preset_names(_preset_folder(), ".json")


def load_model(name: str | Path) -> Model:
    """Load a model from a shipped preset or from a JSON file with Hugging Face's field names.

    Parameters
    ----------
    name : str or Path
        A name that `list_models` gives, or the path of a ``.json`` file.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        The file does not exist, is broken, or describes a model that perfsim does not know.
    """
    path = find_file("model", name, _preset_folder(), ".json")
    faults = Faults("model")
    model = build(Model, {"name": path.stem, **read_json(path)}, faults)
    if model is None:
        raise InputError(faults.found)
    return model
