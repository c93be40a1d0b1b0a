"""What an operator does, by the words of its title or its name."""

from __future__ import annotations

import re

__all__ = [
    "ATTENTION", "COLUMNS", "COMMUNICATION", "COMPOSITE", "ELEMENTWISE", "LINEAR", "PASSING", "REDUCING", "role_of",
    "says",
]  # fmt: skip

_ROLES = {
    "all_reduce": r"all ?reduce",
    "reduce_scatter": r"reduce ?scatter",
    "all_gather": r"all ?gather",
    "exchange": r"all ?to ?all|\bdispatch|\bcombine",
    "shift": r"ring shift|kv shift",
    "send": r"\bsend|\brecv|\breceive|transfer|\bp2p\b|pipeline comm|hand ?over|gpu to gpu|\bcomm\d",
    "broadcast": r"broadcast",
    "split": r"\bsplit|scatter|\bpartition\b|\bslice|\bchunk",
    "gather": r"gather|concat|aggregat|\bmerge",
    "input": r"\binput$|^input (node|layer|tokens?)$",
    "output": r"^(final |model |pipeline |stage \d+ )*outputs?( node| layer)?$",
    "norm": r"norm\b|norm ?\d|\bln ?\d?\b",
    "residual": r"residual|\badd\b|\bres ?\d?\b|skip conn",
    "softmax": r"softmax",
    "score": r"score|\bq ?[·*@x]? ?k ?\^? ?t\b",
    "last": r"last token",
    "head": r"\blm ?head|\blogits\b|\bvocab|output head",
    "embedding": r"embedding|\bembed\b",
    "rotary": r"rotary|\brope\b",
    "reshape": r"reshape|transpose|\bview\b",
    "activation": r"\bgelu|\bsilu|\brelu|swi ?glu|geglu|activation|\bgated\b",
    "up": r"gate ?(proj|linear)|\b(mlp|ffn|shared) ?(up|gate|col\w*|1|fc ?1|linear ?1)|\bfc ?1|\blinear ?1\b|"
          r"(?<!q )(?<!kv )\bup ?proj",
    "down": r"\b(mlp|ffn|shared) ?(down|row\w*|2|fc ?2|linear ?2)|\bfc ?2|\blinear ?2\b|(?<!kv )\bdown ?proj",
    "router": r"router|routing|gating|\bgate\b|top ?k\b|choose experts",
    "experts": r"expert|\bmoe\b",
    "qkv": r"\bqkv|\bq ?k ?v\b|\bkv up proj|\bq up proj",
    "q": r"\b(q|query) ?(linear|proj|weight)",
    "k": r"\b(k|key) ?(linear|proj|weight)",
    "v": r"\b(v|value) ?(linear|proj|weight)",
    "out_proj": r"\b(attention|attn|mha|output|out|o) ?(out ?|output ?)?(proj|linear)|\b(attention|attn|mha) ?out",
    "attention": r"attention|\battn|\bmha\b|\bsdpa\b",
    "mlp": r"\bmlp\b|\bffn\b|feed ?forward",
    "linear": r"linear|matmul|\bproj|gemm|\bdense\b",
    "layer": r"\blayers? ?\d",
}  # fmt: skip
"""The first role whose pattern is found counts: an all-reduce of attention is no attention."""
_PATTERNS = {role: re.compile(pattern) for role, pattern in _ROLES.items()}

COMMUNICATION = frozenset(
    {"all_reduce", "reduce_scatter", "all_gather", "exchange", "shift", "send", "broadcast", "split", "gather"}
)
"""What may move tensors from one GPU to another."""
COLUMNS = frozenset({"q", "k", "v", "qkv", "up"})
"""Matrices whose columns the ranks of tensor parallelism share."""
LINEAR = COLUMNS | {"out_proj", "down", "linear", "router", "head"}
ATTENTION = frozenset({"attention", "score", "value"})
ELEMENTWISE = frozenset({"norm", "residual", "activation", "softmax", "rotary"})
REDUCING = frozenset({"all_reduce", "reduce_scatter"})
"""What completes partial sums."""
PASSING = frozenset({"norm", "residual", "activation", "softmax", "rotary", "reshape", "send", "broadcast", "shift"})
"""What holds its output as its input is held."""
COMPOSITE = frozenset({"mlp", "layer"})
"""What stands for several operators."""


def role_of(title: str, name: str, *, takes_scores: bool = False) -> str:
    """Say what an operator does; an empty text where its words do not.

    Parameters
    ----------
    title, name : str
        Of a node; the name counts where the title says nothing.
    takes_scores : bool
        Whether an input pairs tokens with tokens: "attention output" then is the product with V, not the projection.

    Examples
    --------
    >>> role_of("All-Reduce Sum", "layer0_attn_allreduce"), role_of("MLP Linear1 (Column)", ""), role_of("", "ln_2")
    ('all_reduce', 'up', 'norm')
    """
    for text in (title, name):
        words = " ".join(re.sub(r"[_.\-/()]+", " ", text.lower()).split())
        role = next((role for role, pattern in _PATTERNS.items() if pattern.search(words)), "")
        if role:
            return "value" if role in {"out_proj", "attention"} and takes_scores else role
    return ""


def says(title: str, what: str) -> bool:
    """Whether a title says that a matrix is ``column`` or ``row`` parallel.

    Examples
    --------
    >>> says("MLP Linear2 (Row)", "row"), says("MLP Linear1 (Col-Parallel)", "column"), says("Throw away", "row")
    (True, True, False)
    """
    return re.search(r"\bcol(umn)?\b" if what == "column" else r"\brow\b", title.lower()) is not None
