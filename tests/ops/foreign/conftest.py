"""Drawings in the manner of people who write DOT by hand or by script, sound until a test changes them."""

import dataclasses

import pytest

HIDDEN = "[batch_size=8, seq_len=128, hidden_size=64]"
HEADS = "[batch_size=8, seq_len=128, num_heads=2, head_dim=16]"
SHARD = "[batch_size=8, seq_len=128, hidden_size=32]"
INNER = "[batch_size=8, seq_len=128, ffn_hidden_size=128]"


@dataclasses.dataclass
class Sketch:
    """Nodes as titles, shapes and GPUs, and edges; both may be changed."""

    nodes: dict = dataclasses.field(default_factory=dict)
    edges: list = dataclasses.field(default_factory=list)
    hidden = HIDDEN
    heads = HEADS
    shard = SHARD
    inner = INNER

    def add(self, name, title, inputs, outputs, *, gpu, after=()):
        """Add a node and the edges that lead to it."""
        self.nodes[name] = {"title": title, "inputs": list(inputs), "outputs": list(outputs), "gpu": gpu}
        self.edges += [(producer, name) for producer in after]

    def drop(self, *names):
        """Remove nodes with their edges."""
        for name in names:
            del self.nodes[name]
        self.edges = [edge for edge in self.edges if not {*edge} & {*names}]

    def bridge(self, name):
        """Remove a node that has one producer, which then feeds its consumers."""
        (producer,) = (start for start, end in self.edges if end == name)
        after = [end for start, end in self.edges if start == name]
        self.drop(name)
        self.edges += [(producer, end) for end in after]

    def between(self, edge, name, title, *, shapes, gpu):
        """Put a node on an edge."""
        self.edges.remove(edge)
        taken, given = shapes
        self.add(name, title, [taken], [given], gpu=gpu, after=[edge[0]])
        self.edges.append((name, edge[1]))

    def everywhere(self, old, new):
        """Replace a text in all shapes."""
        for node in self.nodes.values():
            for side in ("inputs", "outputs"):
                node[side] = [shape.replace(old, new) for shape in node[side]]

    def dot(self):
        """Write it as DOT."""
        lines = ["digraph {", "  node [shape=box];"]
        for name, node in self.nodes.items():
            many = len(node["inputs"]) > 1
            parts = [node["title"]]
            parts += [f"Input{i + 1 if many else ''}: {shape}" for i, shape in enumerate(node["inputs"])]
            parts += [f"Output: {shape}" for shape in node["outputs"]]
            parts += [f"GPU: {node['gpu']}"] if node["gpu"] else []
            label = "\\n".join(parts)
            lines.append(f'  {name} [label="{label}"];')
        lines += [f"  {start} -> {end};" for start, end in self.edges]
        return "\n".join([*lines, "}"])


def draw_layer(sketch, layer, before, gpu):
    """Add a layer whose tensors two GPUs share; labels have what one GPU holds."""

    def add(op, title, inputs, outputs, *after):
        name = f"layer{layer}_{op}"
        producers = [f"layer{layer}_{a}" if a in ops else a for a in after]
        sketch.add(name, title, inputs, outputs, gpu=gpu, after=producers)
        ops.add(op)

    ops = set()
    add("ln1", "LayerNorm1", [HIDDEN], [HIDDEN], before)
    add("qkv", "QKV Linear", [HIDDEN], [HEADS] * 3, "ln1")
    add("attn", "Attention", [HEADS] * 3, [HEADS], "qkv")
    add("proj", "Attention Projection", [HEADS], [HIDDEN], "attn")
    add("attn_sum", "All-Reduce Sum", [HIDDEN], [HIDDEN], "proj")
    add("res1", "Residual Add 1", [HIDDEN] * 2, [HIDDEN], "attn_sum", before)
    add("ln2", "LayerNorm2", [HIDDEN], [HIDDEN], "res1")
    add("mlp1", "MLP Linear1", [HIDDEN], [INNER], "ln2")
    add("gelu", "GELU", [INNER], [INNER], "mlp1")
    add("mlp2", "MLP Linear2", [INNER], [HIDDEN], "gelu")
    add("mlp_sum", "All-Reduce Sum", [HIDDEN], [HIDDEN], "mlp2")
    add("res2", "Residual Add 2", [HIDDEN] * 2, [HIDDEN], "mlp_sum", "res1")
    return f"layer{layer}_res2"


@pytest.fixture
def sketch():
    """Give a sound drawing: four layers on two stages of two GPUs."""
    drawn = Sketch()
    drawn.add("input", "Model Input", [HIDDEN], [HIDDEN], gpu="All GPUs")
    held = "input"
    for layer in range(4):
        if layer == 2:
            drawn.add("send", "Send to Stage 1", [HIDDEN], [HIDDEN], gpu="0-1 → 2-3", after=[held])
            held = "send"
        held = draw_layer(drawn, layer, held, "0-1" if layer < 2 else "2-3")
    drawn.add("output", "Model Output", [HIDDEN], [HIDDEN], gpu="GPU 3", after=[held])
    return drawn
