"""What the parts of a scenario do not allow of each other: every message, with the nearest values that are legal."""

import dataclasses

import pytest

import perfsim
from perfsim.spec.hardware import NetworkTier


@pytest.fixture(scope="module")
def node(h100):
    """Give one node of eight devices."""
    return dataclasses.replace(h100, num_devices=8)


@pytest.fixture(scope="module")
def faults_of(refused, families, node):
    """Give a function that makes a scenario, which must be refused, and gives its faults as (field, text)."""

    def call(family="llama", plan=None, cluster=node, changes=None, **workload):
        model = dataclasses.replace(families[family], **(changes or {}))
        about = {"batch_size": 8, "sequence_length": 64, **workload}
        found = refused(perfsim.Scenario, cluster, model, perfsim.Plan(**(plan or {})), perfsim.Workload(**about))
        texts = {fault.field: f"{fault.allowed}; {fault.way_out}" for fault in found}
        assert len(texts) == len(found), "a field has one fault"
        return texts

    return call


LONG = {"num_hidden_layers": 16}
CASES = {
    "more devices than the cluster has": (
        {"plan": {"tensor": 4, "pipeline": 2, "data": 2}}, "plan",
        "must be at most the 8 devices of the cluster; use smaller degrees, or a cluster with num_devices=16",
    ),
    "context ranks count as devices": (
        {"plan": {"tensor": 4, "context": 4}}, "plan", "or a cluster with num_devices=16"),
    "heads that ranks cannot share": (
        {"plan": {"tensor": 3}}, "plan.tensor",
        "must divide model.num_attention_heads = 8, model.intermediate_size = 640, model.num_key_value_heads = 4 (or "
        "be a multiple of it); use one of 1, 2, 4, 8",
    ),
    "heads of K and V that neither divide nor multiply": (
        {"plan": {"tensor": 4}, "changes": {"num_attention_heads": 24, "num_key_value_heads": 6, "head_dim": 32}},
        "plan.tensor", "must divide model.num_key_value_heads = 6 (or be a multiple of it); use one of 1, 2",
    ),
    "heads of K and V of some layers": (
        {"family": "gemma4", "plan": {"tensor": 4}, "changes": {
            "num_attention_heads": 24, "num_global_key_value_heads": 3, "num_key_value_heads": 4}},
        "plan.tensor", "must divide model.num_key_value_heads = 3 (or be a multiple of it); use one of 1",
    ),
    "an MLP that ranks cannot share": (
        {"plan": {"tensor": 4}, "changes": {"intermediate_size": 642}}, "plan.tensor",
        "must divide model.intermediate_size = 642; use one of 1, 2",
    ),
    "shared experts that ranks cannot share": (
        {"family": "qwen2-moe", "plan": {"tensor": 4}, "changes": {"shared_expert_intermediate_size": 130}},
        "plan.tensor", "must divide model.shared_expert_intermediate_size = 130; use one of 1, 2",
    ),
    "a hidden state that cannot be scattered": (
        {"plan": {"tensor": 4, "pipeline": 2, "scatter_gather": True}, "changes": {"hidden_size": 258, "head_dim": 32}},
        "plan.tensor", "must divide model.hidden_size = 258; use one of 1, 2",
    ),
    "sequence parallelism on one rank": (
        {"plan": {"sequence_parallel": True}}, "plan.sequence_parallel", "needs a tensor degree above 1"),
    "overlap on one rank": ({"plan": {"overlap_chunks": 2}}, "plan.overlap_chunks", "needs a tensor degree above 1"),
    "shares of shares": (
        {"plan": {"tensor": 2, "pipeline": 2, "sequence_parallel": True, "scatter_gather": True}},
        "plan.scatter_gather", "must be false with plan.sequence_parallel; stages hand over shares anyway",
    ),
    "more stages than layers": (
        {"plan": {"pipeline": 5}}, "plan.pipeline",
        "must be at most the 4 layers of the model; each stage needs a layer",
    ),
    "more virtual stages than layers": (
        {"plan": {"pipeline": 2, "virtual_stages": 4, "microbatch_size": 1}}, "plan.virtual_stages",
        "must give at most 4 stages, the layers of the model",
    ),
    "layers that do not add up": (
        {"plan": {"pipeline": 2, "layers_per_stage": (3, 2)}}, "plan.layers_per_stage", "must add up to the 4 layers"),
    "layers of passes that do not add up": (
        {"plan": {"pipeline": 2, "virtual_stages": 2, "layers_per_stage": (1, 1, 1, 2), "microbatch_size": 1}},
        "plan.layers_per_stage", "must add up to the 4 layers",
    ),
    "a batch that replicas cannot share": (
        {"plan": {"data": 3}}, "workload.batch_size",
        "must be a multiple of plan.data = 3; every replica takes an equal share; the nearest are 6 and 9",
    ),
    "fewer sequences than replicas": (
        {"plan": {"data": 4}, "batch_size": 2}, "workload.batch_size", "the nearest is 4"),
    "microbatches that do not go round": (
        {"plan": {"pipeline": 2, "virtual_stages": 2, "microbatch_size": 1}, "batch_size": 5}, "plan.virtual_stages",
        "needs a number of microbatches that is a multiple of plan.pipeline = 2, not 5; choose batch_size or "
        "microbatch_size so; the nearest are 4 and 6",
    ),
    "microbatches of the default size that do not go round": (
        {"plan": {"pipeline": 4, "virtual_stages": 4}, "batch_size": 6, "changes": LONG}, "plan.virtual_stages",
        "not 3; choose batch_size or microbatch_size so; the nearest is 4",
    ),
    "experts of a model without any": (
        {"plan": {"tensor": 2, "expert": 2}}, "plan.expert", "must be 1: llama has no experts"),
    "experts that ranks cannot share": (
        {"family": "mixtral", "plan": {"tensor": 2, "data": 3, "expert": 6}, "batch_size": 6}, "plan.expert",
        "must divide model.num_experts = 8, and divide plan.tensor = 2",
    ),
    "an expert degree beyond the stage": (
        {"family": "mixtral", "plan": {"tensor": 2, "data": 2, "expert": 8}}, "plan.expert", "use one of 1, 2, 4"),
    "an expert degree that cuts tensor groups": (
        {"family": "mixtral", "plan": {"tensor": 4, "data": 2, "expert": 2, "sequence_parallel": True}},
        "plan.expert", "with sequence_parallel it is not between 1 and plan.tensor",
    ),
    "columns of an expert that ranks cannot share": (
        {"family": "mixtral", "plan": {"tensor": 8, "expert": 2}, "changes": {"moe_intermediate_size": 130}},
        "plan.expert", "leave whole columns of model.moe_intermediate_size = 130",
    ),
    "columns that no expert degree saves": (
        {"family": "mixtral", "plan": {"tensor": 8}, "changes": {"moe_intermediate_size": 131, "num_experts": 9}},
        "plan.expert", "use another tensor degree",
    ),
    "experts across context ranks": (
        {"family": "mixtral", "plan": {"tensor": 2, "context": 2, "expert": 4}}, "plan.expert", "use one of 1, 2"),
    "a ring in decode": (
        {"plan": {"context": 2}, "phase": "decode"}, "plan.context",
        "must be 1 in the decode phase; rings share a prefill",
    ),
    "a ring in a generation": (
        {"plan": {"context": 2}, "phase": "generation"}, "plan.context", "must be 1 in the generation phase"),
    "a ring of latent vectors": (
        {"family": "deepseek", "plan": {"context": 2}}, "plan.context", "must be 1 for a model with latent attention"),
    "a ring around a window": (
        {"family": "gemma", "plan": {"context": 2}}, "plan.context", "must be 1 for a model with a sliding window"),
    "tokens that a ring cannot share": (
        {"plan": {"context": 4}, "sequence_length": 90}, "workload.sequence_length",
        "must be a multiple of plan.context = 4, and at least twice as much: ranks hold tokens from both ends; the "
        "nearest are 88 and 92; the nearest degree is 3",
    ),
    "one token a rank": (
        {"plan": {"context": 4}, "sequence_length": 4}, "workload.sequence_length",
        "the nearest is 8; the nearest degree is 2",
    ),
    "fewer tokens than parts": (
        {"plan": {"tensor": 2, "overlap_chunks": 4}, "sequence_length": 3}, "plan.overlap_chunks",
        "must be at most 3, a rank's tokens of a sequence",
    ),
    "fewer sequences than parts": (
        {"plan": {"tensor": 2, "overlap_chunks": 4, "microbatch_size": 6}, "phase": "decode"}, "plan.overlap_chunks",
        "must be at most 2, the sequences of the smallest microbatch",
    ),
    "fewer of either in a generation": (
        {"plan": {"tensor": 2, "overlap_chunks": 4}, "phase": "generation", "sequence_length": 3},
        "plan.overlap_chunks", "must be at most 3, a rank's tokens of a sequence",
    ),
    "a data type that the device lacks": (
        {"cluster": perfsim.load_cluster("dgx-a100-80gb"), "dtype": "fp8"}, "workload.dtype",
        "must be a dtype that A100 SXM4 80GB multiplies in (",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "field", "text"), CASES.values(), ids=CASES)
def test_what_is_impossible_is_named_with_the_nearest_that_is_legal(faults_of, given, field, text):
    """In one sentence, under the name of the field; nothing else is wrong with it."""
    found = faults_of(**given)
    assert text in found[field]
    assert set(found) == {field}


def tensor_degrees(text):
    """Read the degrees that a message names."""
    return [int(degree) for degree in text.partition("use one of ")[2].split(", ")]


@pytest.mark.parametrize("name", ["llama", "falcon", "qwen2-moe", "deepseek", "gemma4"])
def test_every_tensor_degree_that_is_named_is_legal_and_no_other(faults_of, families, node, name):
    """On a cluster with room for all of them."""
    named = tensor_degrees(faults_of(family=name, plan={"tensor": 5})["plan.tensor"])
    for tensor in range(1, 9):
        parts = node, families[name], perfsim.Plan(tensor=tensor), perfsim.Workload(batch_size=2, sequence_length=8)
        if tensor in named:
            assert perfsim.Scenario(*parts).plan.tensor == tensor
        else:
            faults_of(family=name, plan={"tensor": tensor})


def test_every_expert_degree_that_is_named_is_legal_and_no_other(faults_of, families, node):
    """Of four tensor ranks and two replicas."""
    plan = {"tensor": 4, "data": 2}
    named = tensor_degrees(faults_of(family="mixtral", plan={**plan, "expert": 3})["plan.expert"])
    assert named == [1, 2, 4, 8]
    for expert in range(1, 10):
        parts = node, families["mixtral"], perfsim.Plan(**plan, expert=expert), perfsim.Workload(batch_size=2)
        if expert in named:
            assert perfsim.Scenario(*parts).plan.expert == expert
        else:
            faults_of(family="mixtral", plan={**plan, "expert": expert})


def test_the_nearest_sizes_that_are_named_are_legal(faults_of, families, node):
    """Sequences and degrees of a ring, and batches of replicas."""
    for length, context, lengths, degree in ((90, 4, (88, 92), 3), (7, 4, (8,), 1), (100, 8, (96, 104), 10)):
        text = faults_of(plan={"context": context}, sequence_length=length)["workload.sequence_length"]
        assert " and ".join(map(str, lengths)) in text
        assert text.endswith(f"the nearest degree is {degree}")
        cluster = dataclasses.replace(node, num_devices=16)
        for legal, ranks in (*((length, context) for length in lengths), (length, degree)):
            workload = perfsim.Workload(batch_size=2, sequence_length=legal)
            assert perfsim.Scenario(cluster, families["llama"], perfsim.Plan(context=ranks), workload)


def test_a_stage_on_two_kinds_of_device_is_named_with_both(faults_of, node):
    """A stage is priced on one of them."""
    slow = perfsim.load_cluster("dgx-a100-80gb", num_devices=8)
    mixed = perfsim.join_clusters(node, slow, tier=NetworkTier("ethernet", 25e9, 5e-6))
    found = faults_of(cluster=mixed, plan={"data": 4, "tensor": 2, "pipeline": 2, "rank_order": (
        "data", "pipeline", "tensor", "context")})  # fmt: skip
    assert "stage 0 lies on dgx-a100-80gb and dgx-h100" in found["plan.pipeline"]
    assert "choose degrees so that stages end where a kind of device ends" in found["plan.pipeline"]


def test_a_data_type_that_one_kind_of_device_lacks_is_refused(faults_of, node):
    """With the name of the device."""
    slow = perfsim.load_cluster("dgx-a100-80gb", num_devices=8)
    mixed = perfsim.join_clusters(node, slow, tier=NetworkTier("ethernet", 25e9, 5e-6))
    found = faults_of(cluster=mixed, plan={"pipeline": 2, "tensor": 8}, dtype="fp8")
    assert set(found) == {"workload.dtype"}
    assert "A100" in found["workload.dtype"]


def test_several_faults_come_together(faults_of):
    """Of devices, heads, stages, replicas, experts and the ring at once."""
    found = faults_of(
        plan={"tensor": 3, "pipeline": 5, "data": 3, "context": 4, "expert": 3}, sequence_length=90, phase="decode"
    )
    assert set(found) == {
        "plan", "plan.tensor", "plan.pipeline", "workload.batch_size", "plan.expert", "plan.context",
        "workload.sequence_length",
    }  # fmt: skip


def test_faults_of_a_sequence_parallel_plan_come_together(faults_of):
    """On one rank there is nothing to share, to overlap or to scatter."""
    found = faults_of(plan={"sequence_parallel": True, "overlap_chunks": 100, "scatter_gather": True, "pipeline": 2})
    assert set(found) == {"plan.sequence_parallel", "plan.overlap_chunks", "plan.scatter_gather"}
