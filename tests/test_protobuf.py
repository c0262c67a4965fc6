"""An ONNX graph is cut to some of its outputs without the package `onnx`; here beside it."""

import numpy as np
import pytest

from inlier.runtime.protobuf import field, fields, pruned

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402


def tensor(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None])


def branching():
    """y = z if sum(x) > 0 else -z, where z = x + x is read inside the branches alone; w = exp(x) is another output."""
    branches = [
        helper.make_graph([helper.make_node(op, ["z"], [f"{op}_out"])], op, [], [tensor(f"{op}_out")])
        for op in ("Identity", "Neg")
    ]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["z"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Identity", ["e"], ["w"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "branching", [tensor("x")], [tensor("y"), tensor("w")], [zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "wanted, kept",
    [
        (["y"], ["Add", "ReduceSum", "Greater", "If"]),
        (["w"], ["Exp", "Identity"]),
        (["w", "y"], ["Add", "ReduceSum", "Greater", "If", "Exp", "Identity"]),
    ],
)
def test_what_only_other_outputs_need_is_gone_and_values_stay(wanted, kept):
    whole = branching().SerializeToString()
    cut = pruned(whole, wanted)
    assert [node.op_type for node in onnx.load_from_string(cut).graph.node] == kept
    for x in (np.float32([1, 2]), np.float32([-3, 1])):
        for name in wanted:
            values = [
                onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run([name], {"x": x})[0]
                for model in (whole, cut)
            ]
            np.testing.assert_array_equal(*values)


def test_fields_are_read_as_they_were_written():
    message = b"".join(field(number, bytes(number)) for number in (1, 14, 200, 3000))
    assert [(one.number, bytes(one.content)) for one in fields(memoryview(message))] == [
        (number, bytes(number)) for number in (1, 14, 200, 3000)
    ]
    assert b"".join(one.whole for one in fields(memoryview(message))) == message
