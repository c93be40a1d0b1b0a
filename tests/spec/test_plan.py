"""Plans: degrees, microbatches and the layers of each stage."""

import numpy as np
import pytest

from perfsim import Plan

SIZES = ("tensor", "pipeline", "data", "receive_buffers", "microbatch_size")


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -2, 1.0, "2", True], ids=repr)
def test_degrees_that_are_none_are_refused(refused, field, value):
    """Degrees and sizes are whole numbers of at least 1."""
    (fault,) = refused(Plan, **{field: value})
    assert (fault.field, fault.value) == (f"plan.{field}", value)


def test_numpy_degrees_are_degrees():
    """A plan of numpy integers equals that of Python's, and so do their hashes."""
    given = Plan(tensor=np.int64(8), pipeline=np.uint8(2), layers_per_stage=(np.int32(3), np.int32(5)))
    wanted = Plan(tensor=8, pipeline=2, layers_per_stage=(3, 5))
    assert given == wanted
    assert hash(given) == hash(wanted)


def test_products_of_small_integers_do_not_overflow():
    """An int8 holds each degree, but not their product."""
    assert Plan(tensor=np.int8(16), pipeline=np.int8(16), data=np.int8(16)).num_devices == 4096


def test_layers_may_come_as_an_array():
    """Layers of each stage may be a numpy array of whole numbers."""
    assert Plan(pipeline=2, layers_per_stage=np.array([3, 5])) == Plan(pipeline=2, layers_per_stage=(3, 5))


@pytest.mark.parametrize("pipeline", [2, np.int64(2)], ids=["python", "numpy"])
def test_layers_of_the_wrong_number_of_stages_are_refused(refused, pipeline):
    """There is one number for each stage, whatever integer the degree is."""
    (fault,) = refused(Plan, pipeline=pipeline, layers_per_stage=[1, 2, 3])
    assert fault.field == "plan.layers_per_stage"
    assert "pipeline=3" in fault.way_out


@pytest.mark.parametrize("layers", ["88", 8, {8: 8}], ids=repr)
def test_layers_that_are_no_list_are_refused(refused, layers):
    """A text is not a list of numbers."""
    (fault,) = refused(Plan, layers_per_stage=layers)
    assert (fault.field, fault.value) == ("plan.layers_per_stage", layers)


def test_a_stage_without_layers_is_named(refused):
    """The fault names the stage by its index."""
    faults = refused(Plan, pipeline=3, layers_per_stage=[4, 0, True])
    assert [fault.field for fault in faults] == ["plan.layers_per_stage.1", "plan.layers_per_stage.2"]


def test_all_faults_come_together(refused):
    """Four wrong fields are four faults of one error."""
    faults = refused(Plan, tensor=0, data="x", schedule="sequentiel", scatter_gather=1)
    fields = ["plan.tensor", "plan.data", "plan.schedule", "plan.scatter_gather"]
    assert [fault.field for fault in faults] == fields
    assert faults[2].way_out == "did you mean 'sequential'?"


def test_a_list_of_layers_becomes_a_tuple():
    """So a plan can be hashed however it was written."""
    assert hash(Plan(pipeline=2, layers_per_stage=[1, 2])) == hash(Plan(pipeline=2, layers_per_stage=(1, 2)))


def test_the_devices_of_a_plan_are_the_product_of_its_degrees():
    """Tensor by pipeline by data."""
    assert Plan(tensor=4, pipeline=3, data=2).num_devices == 24
