"""WHAT runs: a transformer model, in the field names of Hugging Face's ``config.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfsim import html
from perfsim.errors import Faults, InputError
from perfsim.spec.huggingface.config import is_hugging_face, read_config
from perfsim.spec.model_checks import TORCH_DTYPES
from perfsim.spec.model_fields import ModelFields
from perfsim.spec.tables import build, find_file, preset_names, read_json
from perfsim.units import DTYPE_BYTES, format_bytes

__all__ = ["LayerKind", "Model", "list_models", "load_model"]

Tokens = TypeVar("Tokens", int, NDArray[np.int64])


@dataclass(frozen=True)
class LayerKind:
    """What tells one layer of a model from another.

    Attributes
    ----------
    window : int or None
        Tokens that a token attends to, itself included; None: all before it.
    experts : bool
        Whether the layer has experts in place of a dense MLP.
    """

    window: int | None = None
    experts: bool = False


@dataclass(frozen=True)
class Model(ModelFields):
    """A stack of decoder layers: norm, attention, residual, norm, MLP or experts, residual.

    The fields are described at `perfsim.spec.model_fields.ModelFields`. Parameters are counted as the modules of
    Hugging Face hold them, without draft layers.

    Examples
    --------
    >>> import perfsim
    >>> model = perfsim.load_model("llm-16l-8192")
    >>> model.num_parameters
    12885164032
    """

    @property
    def kv_heads(self) -> int:
        """Heads of K and of V; `kv_heads_in` where they differ between layers."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head of Q and K; of V too, unless attention is latent. `head_size_in` where layers differ."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def value_head_size(self) -> int:
        """Width of one head of V, and of what attention gives."""
        return self.v_head_dim or self.head_size

    def kv_heads_in(self, kind: LayerKind) -> int:
        """Heads of K and of V in one layer."""
        return self.kv_heads if kind.window else self.num_global_key_value_heads or self.kv_heads

    def head_size_in(self, kind: LayerKind) -> int:
        """Width of one head of Q and K in one layer."""
        return self.head_size if kind.window else self.global_head_dim or self.head_size

    @property
    def dtype(self) -> str:
        """Data type of activations, as hardware profiles name it."""
        return TORCH_DTYPES[self.torch_dtype]

    @property
    def is_latent(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return self.kv_lora_rank is not None

    @cached_property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of every layer, first to last.

        Examples
        --------
        >>> sizes = dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=96)
        >>> Model("m", **sizes, sliding_window=32, windowed_layers=(True, False)).layers
        (LayerKind(window=32, experts=False), LayerKind(window=None, experts=False))
        """
        number = self.num_hidden_layers
        windowed = self.windowed_layers or (self.sliding_window is not None,) * number
        experts = self.expert_layers or (self.num_experts > 0,) * number
        return tuple(
            LayerKind(self.sliding_window if window else None, expert)
            for window, expert in zip(windowed, experts, strict=True)
        )

    @property
    def norm_parameters(self) -> int:
        """Gains, and shifts where there are any, of one norm of hidden states."""
        return self.hidden_size * (2 if self.norm_bias else 1)

    def norms_in(self, kind: LayerKind) -> int:
        """Count the norms of hidden states in one layer."""
        norms = 1 if self.parallel_block else 4 if self.post_norms else 2
        return norms + 4 * (kind.experts and self.expert_branch_norms)

    def attention_parameters(self, kind: LayerKind) -> int:
        """Parameters of one layer's attention: projections, their biases, norms of Q and K, sinks."""
        return self._latent_attention() if self.is_latent else self._plain_attention(kind)

    def layer_parameters(self, kind: LayerKind) -> int:
        """Parameters of one layer, every expert included."""
        return self._layer(kind, self.num_experts)

    def active_layer_parameters(self, kind: LayerKind) -> int:
        """Parameters of one layer that one token meets: those of the experts that it takes, and all others."""
        return self._layer(kind, self.num_experts_per_token)

    @property
    def embedding_parameters(self) -> int:
        """Parameters before the first layer: embedding and learned positions."""
        return (self.vocab_size + self.learned_positions) * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Parameters after the last layer: final norm, and head unless it is tied to the embedding."""
        if not self.vocab_size:
            return 0
        head = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return self.norm_parameters + head + self.head_bias * self.vocab_size

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, without draft layers."""
        return self.embedding_parameters + self._sum(self.layer_parameters) + self.head_parameters

    @property
    def num_active_parameters(self) -> int:
        """Parameters that one token meets, the whole embedding included."""
        return self.embedding_parameters + self._sum(self.active_layer_parameters) + self.head_parameters

    @property
    def kv_cache_elements_per_token(self) -> int:
        """Numbers that one token leaves in a layer's cache; `kv_cache_elements_in` where layers differ."""
        return self.kv_cache_elements_in(LayerKind(self.sliding_window))

    def kv_cache_elements_in(self, kind: LayerKind) -> int:
        """Numbers that one token leaves in the cache of one layer: K and V, or once the latent with its rotary part."""
        if self.is_latent:
            return (self.kv_lora_rank or 0) + (self.qk_rope_head_dim or 0)
        return 2 * self.kv_heads_in(kind) * self.head_size_in(kind)

    def kv_cache_bytes_per_token(self, kv_dtype: str) -> int:
        """Bytes that one token leaves in the caches of all layers."""
        return self._sum(self.kv_cache_elements_in) * DTYPE_BYTES[kv_dtype]

    @staticmethod
    def kv_cache_tokens(kind: LayerKind, context: Tokens) -> Tokens:
        """Tokens of a context that the cache of one layer keeps: at most those of its window."""
        return context if kind.window is None else np.minimum(context, kind.window)

    def __str__(self) -> str:
        return f"{self.name}: {self.num_hidden_layers} layers of {self.hidden_size}, {self._parameters_text()}"

    def __repr__(self) -> str:
        return f"<Model {self}>"

    def _repr_html_(self) -> str:
        return html.card(f"Model {self.name}", html.facts(self._facts()))

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Names and values for people."""
        mlp = f"{'gated ' if self.gated_mlp else ''}{self.hidden_act} MLP of {self.intermediate_size}"
        dense = not all(kind.experts for kind in self.layers)
        yield "Layers", f"{self.num_hidden_layers} of {self.hidden_size}{f', {mlp}' if dense else ''}, {self.norm}"
        kind = f"latent, rank {self.kv_lora_rank}" if self.is_latent else f"{self.kv_heads} of K and V"
        window = f", window of {self.sliding_window} tokens" if self.sliding_window else ""
        yield "Attention", f"{self.num_attention_heads} heads of {self.head_size}, {kind}{window}"
        if self.num_experts:
            layers = sum(kind.experts for kind in self.layers)
            each = f"{self.num_experts} of {self.moe_intermediate_size}, {self.num_experts_per_token} for each token"
            yield "Experts", f"{each}, in {layers} layers"
        yield "Vocabulary", f"{self.vocab_size:,}" if self.vocab_size else "none: takes and gives hidden states"
        yield "Parameters", self._parameters_text()
        weights = "" if self.quantization == "none" else f", weights in {self.quantization}"
        yield "Data type", f"{self.dtype}{weights}"
        yield "KV cache", f"{format_bytes(self.kv_cache_bytes_per_token(self.dtype))} a token"

    def _parameters_text(self) -> str:
        active = f", {self.num_active_parameters / 1e9:.4g} billion for a token" if self.num_experts else ""
        return f"{self.num_parameters / 1e9:.4g} billion parameters{active}"

    def _sum(self, of_layer: Callable[[LayerKind], int]) -> int:
        return sum(of_layer(kind) * number for kind, number in Counter(self.layers).items())

    def _layer(self, kind: LayerKind, experts: int) -> int:
        mlp = self._experts(experts) if kind.experts else self._mlp(self.intermediate_size, bias=self.mlp_bias)
        return self.norms_in(kind) * self.norm_parameters + self.attention_parameters(kind) + mlp

    def _plain_attention(self, kind: LayerKind) -> int:
        size = self.head_size_in(kind)
        query, key = self.num_attention_heads * size, self.kv_heads_in(kind) * size
        value = 0 if self.attention_k_eq_v and not kind.window else key
        norms = {"": 0, "head": 2 * size, "width": query + key}[self.qk_norm]
        return (
            _linear(self.hidden_size, query + key + value, bias=self.attention_bias)
            + _linear(query, self.hidden_size, bias=self.attention_output_bias)
            + norms
            + self.attention_sinks * self.num_attention_heads
        )

    def _latent_attention(self) -> int:
        hidden, heads = self.hidden_size, self.num_attention_heads
        latent, rope, nope = self.kv_lora_rank or 0, self.qk_rope_head_dim or 0, self.qk_nope_head_dim or 0
        query = heads * (nope + rope)
        if self.q_lora_rank is None:
            queries = hidden * query
        else:
            down = _linear(hidden, self.q_lora_rank, bias=self.attention_bias)
            queries = down + self.q_lora_rank + self.q_lora_rank * query  # a norm stands between the two
        keys_values = (
            _linear(hidden, latent + rope, bias=self.attention_bias)
            + latent  # its norm
            + latent * heads * (nope + self.value_head_size)
        )
        output = _linear(heads * self.value_head_size, hidden, bias=self.attention_output_bias)
        return queries + keys_values + output

    def _mlp(self, width: int, *, bias: bool) -> int:
        inner = 2 * width if self.gated_mlp else width
        return _linear(self.hidden_size, inner, bias=bias) + _linear(width, self.hidden_size, bias=bias)

    def _experts(self, number: int) -> int:
        """Count the router, `number` routed experts, and the shared ones with their gate."""
        router = _linear(self.hidden_size, self.num_experts, bias=self.router_bias)
        routed = number * self._mlp(self.moe_intermediate_size, bias=self.expert_bias)
        shared = 0
        if self.shared_expert_intermediate_size:
            shared = self._mlp(self.shared_expert_intermediate_size, bias=self.mlp_bias)
        return router + routed + shared + self.shared_expert_gate * self.hidden_size


def _linear(inputs: int, outputs: int, *, bias: bool) -> int:
    return (inputs + bias) * outputs


def _preset_folder() -> Path:
    return Path(str(resources.files("perfsim"))) / "presets" / "models"


def list_models() -> tuple[str, ...]:
    """Names of the shipped models, sorted.

    Examples
    --------
    >>> import perfsim
    >>> perfsim.list_models()
    ('deepseek-v3', 'gpt-oss-120b', 'llama-3.1-405b', 'llama-3.1-70b', 'llama-3.1-8b', 'llm-16l-8192', 'mixtral-8x7b',
     'qwen3-235b-a22b', 'qwen3-30b-a3b')
    """
    return preset_names(_preset_folder(), ".json")


def load_model(name: str | Path) -> Model:
    """Load a model from a shipped preset, or from a ``config.json`` of Hugging Face.

    Parameters
    ----------
    name : str or Path
        A name that `list_models` gives, the path of a ``.json`` file, or of a folder that holds a ``config.json``. A
        file with ``architectures`` or ``model_type`` is one of Hugging Face, in which unknown keys are passed over;
        any other holds the fields of `Model`. ``hf_quant_config.json`` beside the file is read too.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        The file is not there, is broken, has missing, wrong or contradictory fields, or a model that is not supported.

    Examples
    --------
    >>> import perfsim
    >>> model = perfsim.load_model("mixtral-8x7b")
    >>> f"{model.num_parameters / 1e9:.2f} billion parameters, {model.num_active_parameters / 1e9:.2f} active"
    '46.70 billion parameters, 12.88 active'
    """
    path = _find(name)
    table = read_json(path)
    title = path.resolve().parent.name if path.name == "config.json" else path.stem.removesuffix("_config")
    if not is_hugging_face(table):
        faults = Faults("model")
        model = build(Model, {"name": title, **table}, faults)
        if model is None:
            raise InputError(faults.found)
        return model
    return _from_hugging_face(table, title, path)


def _find(name: str | Path) -> Path:
    """Find the file that a name means; a folder means the ``config.json`` in it."""
    if isinstance(name, str | Path) and str(name) not in list_models() and Path(name).is_dir():
        return Path(name) / "config.json"
    return find_file("model", name, _preset_folder(), ".json")


def _from_hugging_face(table: Mapping[str, Any], title: str, path: Path) -> Model:
    side = path.with_name(f"{path.name.removesuffix('config.json')}hf_quant_config.json")
    beside = path.name.endswith("config.json") and side.is_file()
    reading = read_config(table, title, read_json(side) if beside else None)
    try:
        model = Model(**reading.fields)
    except InputError as error:
        reading.adopt(error)
    reading.faults.raise_if_any()
    return model
