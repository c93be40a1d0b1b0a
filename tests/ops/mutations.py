"""Small changes to a sound operator graph, of which defects are made."""

from dataclasses import replace

from perfsim.ops.nodes import Edge


def change(graph, name, **fields):
    """Change fields of one operator."""
    return replace(graph, operators=tuple(replace(o, **fields) if o.name == name else o for o in graph))


def change_output(graph, name, number=0, **fields):
    """Change an output of an operator, and the inputs that it feeds likewise, so that the edges still agree."""
    tensor = replace(graph[name].outputs[number], **fields)
    outputs = tuple(tensor if i == number else old for i, old in enumerate(graph[name].outputs))
    graph = change(graph, name, outputs=outputs)
    for edge in graph.edges:
        if (edge.producer, edge.output) == (name, number):
            graph = change_input(graph, edge.consumer, edge.input, **fields)
    return graph


def change_input(graph, name, number=0, **fields):
    """Change an input of an operator."""
    inputs = tuple(replace(old, **fields) if i == number else old for i, old in enumerate(graph[name].inputs))
    return change(graph, name, inputs=inputs)


def feed(graph, name, number, producer, output=0):
    """Feed an input of an operator from elsewhere."""
    edges = (e for e in graph.edges if (e.consumer, e.input) != (name, number))
    return replace(graph, edges=(*edges, Edge(producer, output, name, number)))


def drop(graph, *names):
    """Remove operators with their edges."""
    operators = tuple(operator for operator in graph if operator.name not in names)
    edges = tuple(edge for edge in graph.edges if edge.producer not in names and edge.consumer not in names)
    return replace(graph, operators=operators, edges=edges)


def bridge(graph, name):
    """Remove an operator and lead its only input to where its output went."""
    (source,) = (edge for edge in graph.edges if edge.consumer == name)
    moved = [replace(e, producer=source.producer, output=source.output) for e in graph.edges if e.producer == name]
    left = drop(graph, name)
    return replace(left, edges=(*left.edges, *moved))


def rework(graph, name, **fields):
    """Change fields of the work that an operator is priced with."""
    return change(graph, name, work=replace(graph[name].work, **fields))


def reweigh(graph, name, **fields):
    """Change fields of the parameters of an operator."""
    return change(graph, name, weight=replace(graph[name].weight, **fields))


def without_input(graph, name, number):
    """Take an input away from an operator."""
    inputs = tuple(tensor for i, tensor in enumerate(graph[name].inputs) if i != number)
    edges = []
    for edge in graph.edges:
        if edge.consumer != name or edge.input < number:
            edges.append(edge)
        elif edge.input > number:
            edges.append(replace(edge, input=edge.input - 1))
    return replace(change(graph, name, inputs=inputs), edges=tuple(edges))


def with_input(graph, name, producer, output=0):
    """Give an operator one input more."""
    node = graph[name]
    grown = change(graph, name, inputs=(*node.inputs, graph[producer].outputs[output]))
    return replace(grown, edges=(*grown.edges, Edge(producer, output, name, len(node.inputs))))


def reroute(graph, name, number, producer, output=0):
    """Feed an input from elsewhere, and let it take what comes from there."""
    given = graph[producer].outputs[output]
    inputs = tuple(given if i == number else tensor for i, tensor in enumerate(graph[name].inputs))
    return feed(change(graph, name, inputs=inputs), name, number, producer, output)


def cut_out(graph, name):
    """Remove an operator, and let those behind it take its first input as it is."""
    (source,) = (edge for edge in graph.edges if edge.consumer == name and edge.input == 0)
    taken = [edge for edge in graph.edges if edge.producer == name]
    for edge in taken:
        graph = reroute(graph, edge.consumer, edge.input, source.producer, source.output)
    return drop(graph, name)
