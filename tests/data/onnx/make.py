"""Makes the small ONNX files beside it, so that tests need no package onnx: ``python tests/data/onnx/make.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as Type
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
Size = int | str
Value = tuple[str, int, Sequence[Size]]


def save(
    name: str,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    constants: dict[str, Any] | None = None,
    **attributes: dict[str, Any],
) -> None:
    """``attributes``: of the nodes, by the name of their first output."""
    graph = helper.make_graph(
        [helper.make_node(kind, takes, gives, **attributes.get(gives[0], {})) for kind, takes, gives in nodes],
        name,
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx")


def main() -> None:
    table = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    ids: Value = ("input_ids", Type.INT64, ["batch", "sequence"])
    mask: Value = ("attention_mask", Type.INT64, ["batch", "sequence"])
    pooled: Value = ("vector", Type.FLOAT, ["batch", 8])
    mean = [
        ("Gather", ["table", "input_ids"], ["rows"]),
        ("Cast", ["attention_mask"], ["weights"]),
        ("Unsqueeze", ["weights", "last"], ["column"]),
        ("Mul", ["rows", "column"], ["kept"]),
        ("ReduceSum", ["kept", "middle"], ["sum"]),
        ("ReduceSum", ["column", "middle"], ["count"]),
    ]
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    options = {"weights": {"to": Type.FLOAT}, "sum": {"keepdims": 0}, "count": {"keepdims": 0}}
    divide = ("Div", ["sum", "count"], ["vector"])
    save("two_inputs", [ids, mask], [pooled], [*mean, divide], constants, **options)
    # An input with a value of its own may be left out.
    bias: Value = ("bias", Type.FLOAT, [8])
    add = [("Div", ["sum", "count"], ["mean"]), ("Add", ["mean", "bias"], ["vector"])]
    biased = constants | {"bias": np.full(8, 0.5, np.float32)}
    save("optional_input", [ids, mask, bias], [pooled], [*mean, *add], biased, **options)
    # Exact, whatever stands in the padding: an answer for each token, and a sum of integers.
    save(
        "masked_text",
        [ids, mask],
        [("hidden", Type.FLOAT, ["batch", "sequence", 8]), ("total", Type.INT64, ["batch"])],
        [*mean[:3], ("Mul", ["rows", "column"], ["hidden"]), ("Mul", ["input_ids", "attention_mask"], ["seen"]),
         ("ReduceSum", ["seen", "middle"], ["total"])],
        constants, weights=options["weights"], total=options["sum"],
    )  # fmt: skip
    image: Value = ("image", Type.FLOAT, ["N", 3, "height", "width"])
    save("open_image", [image], [("mean", Type.FLOAT, ["N", 3, 1, 1])], [("GlobalAveragePool", ["image"], ["mean"])])
    save(
        "text_length",
        [("ids", Type.INT32, ["batch", "sequence"])],
        [("vector", Type.FLOAT, ["batch", 8])],
        [("Gather", ["table", "ids"], ["rows"]), ("ReduceMean", ["rows", "middle"], ["vector"])],
        {"table": table, "middle": np.array([1])},
        vector={"keepdims": 0},
    )
    for name, kind in (
        ("bool", Type.BOOL),
        ("string", Type.STRING),
        ("bfloat16", Type.BFLOAT16),
        ("float16", Type.FLOAT16),
        ("uint8", Type.UINT8),
    ):
        save(name, [("x", kind, ["N", 4])], [("y", kind, ["N", 4])], [("Identity", ["x"], ["y"])])
    x: Value = ("x", Type.FLOAT, ["N", 4])
    save("scalar_output", [x], [("total", Type.FLOAT, [])], [("ReduceSum", ["x"], ["total"])], total={"keepdims": 0})
    save(
        "output_without_batch",
        [x],
        [("columns", Type.FLOAT, [4])],
        [("ReduceSum", ["x", "first"], ["columns"])],
        {"first": np.array([0])},
        columns={"keepdims": 0},
    )
    save(
        "several_outputs",
        [x],
        [("twice", Type.FLOAT, ["N", 4]), ("largest", Type.FLOAT, ["N"]), ("place", Type.INT64, ["N"])],
        [("Add", ["x", "x"], ["twice"]), ("ReduceMax", ["x", "one"], ["largest"]), ("ArgMax", ["x"], ["place"])],
        {"one": np.array([1])},
        largest={"keepdims": 0},
        place={"axis": 1, "keepdims": 0},
    )
    # A recurrent network: its state has the batch second, and the rate has none.
    save(
        "state",
        [x, ("state", Type.FLOAT, [2, "N", 4]), ("rate", Type.INT64, [])],
        [("sum", Type.FLOAT, ["N", 4]), ("new_state", Type.FLOAT, [2, "N", 4])],
        [
            ("Cast", ["rate"], ["factor"]),
            ("Mul", ["x", "factor"], ["sum"]),
            ("Add", ["state", "x"], ["new_state"]),
        ],
        factor={"to": Type.FLOAT},
    )


def detector() -> None:
    """The boxes round what is red (class 0) and what is green (class 79), as yolo11l gives them.

    As that, it takes sides that are multiples of 32 only.
    """
    nodes = [("Split", ["images"], ["red", "green", "blue"])]
    attributes: dict[str, dict[str, Any]] = {"red": {"axis": 1, "num_outputs": 3}}
    # 0 for pictures that can be cut into squares of 32 pixels, else an error.
    nodes += [("SpaceToDepth", ["images"], ["squares"]), ("ReduceMax", ["squares", "channels"], ["brightest"])]
    nodes += [("ReduceMax", ["brightest", "sample"], ["any"]), ("Mul", ["any", "nothing"], ["none"])]
    attributes |= {"squares": {"blocksize": 32}, "brightest": {"keepdims": 0}}
    for shown, other in (("red", "green"), ("green", "red")):
        at = f"{shown}_"
        nodes += [
            ("Max", [other, "blue"], [at + "others"]),
            ("Sub", [shown, at + "others"], [at + "excess"]),
            ("Greater", [at + "excess", "half"], [at + "is"]),
            ("Cast", [at + "is"], [at + "mask"]),
        ]
        attributes[at + "mask"] = {"to": Type.FLOAT}
        for side, others in (("x", "down"), ("y", "across")):
            a = at + side
            nodes += [
                ("ReduceMax", [at + "mask", others], [a + "mask"]),  # (n, 1, side)
                ("Equal", [a + "mask", "nothing"], [a + "no"]),
                ("Mul", [a + "mask", "nothing"], [a + "zeros"]),
                ("Add", [a + "zeros", "one"], [a + "ones"]),
                ("CumSum", [a + "ones", "last"], [a + "ends"]),
                ("Sub", [a + "ends", "one"], [a + "starts"]),
                ("Mul", [a + "ends", a + "mask"], [a + "shown"]),
                ("Where", [a + "no", "far", a + "starts"], [a + "left"]),
                ("ReduceMax", [a + "shown", "lasts"], [a + "end"]),
                ("ReduceMin", [a + "left", "lasts"], [a + "start"]),
                ("Sub", [a + "end", a + "start"], [a + "size"]),
                ("Add", [a + "end", a + "start"], [a + "sum"]),
                ("Mul", [a + "sum", "half"], [a + "centre"]),
            ]
            attributes[a + "mask"] = {"keepdims": 0}
        nodes += [
            ("ReduceMax", [at + "xmask", "lasts"], [at + "found"]),
            ("Mul", [at + "found", at + "class"], [at + "scores"]),
            ("Concat", [at + "xcentre", at + "ycentre", at + "xsize", at + "ysize", at + "scores"], [at + "place"]),
        ]
        attributes[at + "place"] = {"axis": 1}
    nodes += [("Concat", ["red_place", "green_place"], ["places"]), ("Add", ["places", "none"], ["output0"])]
    attributes["places"] = {"axis": 2}
    classes = np.zeros((2, 1, 80, 1), np.float32)
    classes[0, 0, 0], classes[1, 0, 79] = 0.9, 0.8
    numbers = {"half": 0.5, "one": 1, "nothing": 0, "far": 1e9}
    save(
        "detectors/red_and_green",
        [("images", Type.FLOAT, ["batch", 3, "height", "width"])],
        [("output0", Type.FLOAT, ["batch", 84, 2])],
        nodes,
        {
            **{name: np.float32(value) for name, value in numbers.items()},
            "channels": np.array([1]),
            "sample": np.array([1, 2]),
            "down": np.array([2]),
            "across": np.array([3]),
            "lasts": np.array([2]),
            "last": np.array(2),
            "red_class": classes[0],
            "green_class": classes[1],
        },
        **attributes,
    )


if __name__ == "__main__":
    main()
    detector()
