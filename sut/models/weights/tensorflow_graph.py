"""An ONNX graph as a TensorFlow function, operator by operator, with images channels last.

Supports the operators of our networks; refuses a graph with others and names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from drumfire.sut.data.library import INPUT
from drumfire.sut.local.backends import interface


class Value(NamedTuple):
    """A tensor or a constant array in the graph."""

    data: Any
    channels_last: bool = False
    """Whether ``data`` is (N, h, w, c) where the ONNX graph has (N, c, h, w)."""

    @property
    def plain(self) -> Any:
        """The tensor in the layout of the ONNX graph."""
        return tf.transpose(self.data, (0, 3, 1, 2)) if self.channels_last else self.data

    @property
    def constant(self) -> Any:
        """The value as an array.  Raises ``ValueError`` if it depends on the samples."""
        array = self.data if isinstance(self.data, np.ndarray) else tf.get_static_value(self.plain)
        if array is None:
            raise ValueError("a shape or a position is computed from the samples, which is not supported")
        return np.asarray(array)


class TensorFlowGraph(tf.Module):  # type: ignore[misc]
    """Raises ``ValueError`` for a file that is not an ONNX graph, or has unsupported operators or too many inputs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._graph = onnx.load(path).graph
        except Exception as error:  # protobuf's errors have no common base
            raise ValueError(f"{path} is not an ONNX file: {error}") from None
        self.tensors = interface.of_graph(self._graph)
        """Of the ONNX graph."""
        unknown = sorted({node.op_type for node in self._graph.node} - set(_OPERATIONS))
        if unknown:
            raise ValueError(f"{path.name} has operators that have no TensorFlow form here: {', '.join(unknown)}")
        self._constants = {tensor.name: Value(numpy_helper.to_array(tensor)) for tensor in self._graph.initializer}

    def function(self) -> Any:
        """A concrete function from the inputs, images channels last, to all outputs, both in the graph's order."""
        inputs = self.tensors.inputs
        # TensorFlow's names may not hold all that those of the graph may.
        names = [INPUT] if len(inputs) == 1 else [f"{INPUT}_{position}" for position in range(len(inputs))]
        specs = [
            tf.TensorSpec(takes.as_channels_last.file_shape, tf.as_dtype(takes.dtype), name=name)
            for name, takes in zip(names, inputs, strict=True)
        ]
        return tf.function(self._run, autograph=False).get_concrete_function(*specs)

    def _run(self, *batch: Any) -> list[Any]:
        values = dict(self._constants)
        for takes, samples in zip(self.tensors.inputs, batch, strict=True):
            values[takes.name] = Value(samples, takes.is_image)
        for node in self._graph.node:
            attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            attributes.setdefault("num_outputs", len(node.output))  # which a Split's attributes tell since opset 18
            given = [values[name] if name else None for name in node.input]
            made = _OPERATIONS[node.op_type](given, attributes)
            values.update(zip(node.output, made if isinstance(made, list) else [made], strict=False))
        outputs = [values[output.name].plain for output in self._graph.output]
        return [tf.identity(output, name=f"output_{at}") for at, output in enumerate(outputs)]


_Operation = Callable[[list[Any], dict[str, Any]], Value | list[Value]]


def _each(function: Callable[[Any], Any]) -> _Operation:
    """An elementwise operation on one tensor."""
    return lambda given, attributes: Value(function(given[0].data), given[0].channels_last)


def _pairs(function: Callable[[Any, Any], Any]) -> _Operation:
    def operation(given: list[Value], attributes: dict[str, Any]) -> Value:
        return _paired(function, given[0], given[1])

    return operation


def _paired(function: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    """An elementwise operation on two tensors, channels last if both sides can be."""
    sides = [one, other]
    last = any(side.channels_last for side in sides)
    for at, side in enumerate(sides):
        if last and not side.channels_last:
            if not isinstance(side.data, np.ndarray):
                last = False
            elif side.data.size > 1:
                shaped = side.data.reshape((1,) * (4 - side.data.ndim) + side.data.shape)
                sides[at] = Value(shaped.transpose(0, 2, 3, 1), True)
    left, right = (side.data if last else side.plain for side in (sides if last else (one, other)))
    if isinstance(left, np.ndarray):
        left = tf.constant(left)
    return Value(function(left, right), last)


def _clip(given: list[Value | None], attributes: dict[str, Any]) -> Value:
    image, low, high = (*given, None, None)[:3]
    assert image is not None
    least = attributes.get("min", -np.inf) if low is None else low.constant
    most = attributes.get("max", np.inf) if high is None else high.constant
    if (least, most) == (0, 6):
        return Value(tf.nn.relu6(image.data), image.channels_last)
    return Value(tf.clip_by_value(image.data, tf.cast(least, image.data.dtype), most), image.channels_last)


def _windows(image: Any, kernel: Sequence[int], attributes: dict[str, Any], filler: float) -> tuple[Any, str]:
    """The image (N, h, w, c), padded unless TensorFlow's own padding does the same, and the name of that padding."""
    strides, pads = attributes.get("strides", (1, 1)), list(attributes.get("pads", (0, 0, 0, 0)))
    if attributes.get("ceil_mode"):
        raise ValueError("a pooling that rounds up is not supported")
    if not any(pads):
        return image, "VALID"
    same = []
    for size, length, stride, gap in zip(
        image.shape[1:3], kernel, strides, attributes.get("dilations", (1, 1)), strict=True
    ):
        whole = max((-(-size // stride) - 1) * stride + (length - 1) * gap + 1 - size, 0)
        same.append((whole // 2, whole - whole // 2))
    if [same[0][0], same[1][0], same[0][1], same[1][1]] == pads:
        return image, "SAME"
    top, left, bottom, right = pads
    return tf.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=filler), "VALID"


def _last(value: Value) -> Any:
    """The tensor as (N, h, w, c)."""
    return value.data if value.channels_last else tf.transpose(value.data, (0, 2, 3, 1))


def _convolution(given: list[Any], attributes: dict[str, Any]) -> Value:
    image, weights = _last(given[0]), given[1].constant
    groups, before = attributes.get("group", 1), image.shape[-1]
    strides, gaps = list(attributes.get("strides", (1, 1))), list(attributes.get("dilations", (1, 1)))
    image, padding = _windows(image, weights.shape[2:], attributes, 0.0)
    if groups == before > 1:
        filters = weights.transpose(2, 3, 0, 1)
        filters = filters.reshape(*filters.shape[:2], before, -1)
        made = tf.nn.depthwise_conv2d(image, filters, [1, *strides, 1], padding, dilations=gaps)
    else:  # TensorFlow takes the number of groups from the filters' channels
        made = tf.nn.conv2d(image, weights.transpose(2, 3, 1, 0), strides, padding, dilations=gaps)
    if len(given) > 2:
        made = tf.nn.bias_add(made, given[2].constant)
    return Value(made, True)


def _max_pool(given: list[Any], attributes: dict[str, Any]) -> Value:
    kernel = attributes["kernel_shape"]
    image, padding = _windows(_last(given[0]), kernel, attributes, -np.inf)
    return Value(tf.nn.max_pool2d(image, kernel, attributes.get("strides", (1, 1)), padding), True)


def _batch_norm(given: list[Any], attributes: dict[str, Any]) -> Value:
    scale, shift, mean, variance = (one.constant for one in given[1:5])
    factor = scale / np.sqrt(variance + np.float32(attributes.get("epsilon", 1e-5)))
    return Value(_last(given[0]) * factor + (shift - mean * factor), True)


def _reduced(function: Callable[..., Any]) -> Callable[[list[Any], dict[str, Any]], Value]:
    """An operation over some axes."""

    def operation(given: list[Any], attributes: dict[str, Any]) -> Value:
        axes = attributes.get("axes", (2, 3)) if len(given) < 2 else given[1].constant.tolist()
        keep = bool(attributes.get("keepdims", 1))
        if given[0].channels_last and sorted(axis % 4 for axis in axes) == [2, 3]:
            return Value(function(given[0].data, (1, 2), keepdims=keep), keep)
        return Value(function(given[0].plain, axes, keepdims=keep))

    return operation


_mean = _reduced(tf.reduce_mean)


def _global_mean(given: list[Any], attributes: dict[str, Any]) -> Value:
    return _mean(given[:1], {"keepdims": 1})


def _gemm(given: list[Any], attributes: dict[str, Any]) -> Value:
    turned = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))
    made = tf.matmul(given[0].plain, given[1].plain, transpose_a=turned[0], transpose_b=turned[1])
    if attributes.get("alpha", 1.0) != 1.0:
        made = made * attributes["alpha"]
    if len(given) > 2:
        made = made + given[2].plain * np.float32(attributes.get("beta", 1.0))
    return Value(made)


def _reshape(given: list[Any], attributes: dict[str, Any]) -> Value:
    wanted, source = [int(size) for size in given[1].constant], given[0].plain
    shape = [size if size or attributes.get("allowzero") else source.shape[at] or -1 for at, size in enumerate(wanted)]
    if shape[1:] == source.shape[1:].as_list() and given[0].channels_last:
        return given[0]  # type: ignore[no-any-return]
    return Value(tf.reshape(source, shape))


def _flatten(given: list[Any], attributes: dict[str, Any]) -> Value:
    source = given[0].plain
    if attributes.get("axis", 1) != 1:
        raise ValueError("flattening of the batch is not supported")
    return Value(tf.reshape(source, (-1, int(np.prod(source.shape[1:])))))


def _transpose(given: list[Any], attributes: dict[str, Any]) -> Value:
    order = tuple(attributes["perm"])
    if order == (0, 3, 1, 2) and not given[0].channels_last:
        return Value(given[0].data, True)
    if order == (0, 2, 3, 1) and given[0].channels_last:
        return Value(given[0].data)
    return Value(tf.transpose(given[0].plain, order))


def _concatenation(given: list[Any], attributes: dict[str, Any]) -> Value:
    axis = attributes["axis"]
    if all(one.channels_last for one in given) and axis in (1, -3):
        return Value(tf.concat([one.data for one in given], 3), True)
    return Value(tf.concat([one.plain for one in given], axis))


def _split(given: list[Any], attributes: dict[str, Any]) -> list[Value]:
    axis = attributes.get("axis", 0)
    last = given[0].channels_last and axis in (1, -3)
    source, axis = (given[0].data, 3) if last else (given[0].plain, axis)
    if len(given) > 1 and given[1] is not None:
        sizes = given[1].constant.tolist()
    else:
        whole, count = source.shape[axis], attributes["num_outputs"]
        most = -(-whole // count)
        sizes = [most] * (count - 1) + [whole - most * (count - 1)]
    return [Value(part, last) for part in tf.split(source, sizes, axis)]


def _cast(given: list[Any], attributes: dict[str, Any]) -> Value:
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    return Value(tf.cast(given[0].data, kind), given[0].channels_last)


def _pad(given: list[Any], attributes: dict[str, Any]) -> Value:
    if attributes.get("mode", b"constant") != b"constant":
        raise ValueError("padding with anything but a constant is not supported")
    source, pads = given[0].plain, given[1].constant.tolist()
    filler = given[2].constant.item() if len(given) > 2 and given[2] is not None else 0
    if len(given) > 3 and given[3] is not None:
        raise ValueError("padding of chosen axes is not supported")
    rank = len(pads) // 2
    sides = [(pads[axis], pads[axis + rank]) for axis in range(rank)]
    if given[0].channels_last:
        sides = [sides[0], sides[2], sides[3], sides[1]]
        return Value(tf.pad(given[0].data, sides, constant_values=filler), True)
    return Value(tf.pad(source, sides, constant_values=filler))


def _shape(given: list[Any], attributes: dict[str, Any]) -> Value:
    return Value(tf.shape(given[0].plain, tf.int64)[attributes.get("start", 0) : attributes.get("end")])


def _slice(given: list[Any], attributes: dict[str, Any]) -> Value:
    source = given[0].plain
    starts, ends = given[1].constant.tolist(), given[2].constant.tolist()
    axes = given[3].constant.tolist() if len(given) > 3 and given[3] is not None else range(len(starts))
    steps = given[4].constant.tolist() if len(given) > 4 else [1] * len(starts)
    cuts = [slice(None)] * len(source.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, None if end > np.iinfo(np.int32).max else end, step)
    return Value(source[tuple(cuts)])


def _unsqueeze(given: list[Any], attributes: dict[str, Any]) -> Value:
    made = given[0].plain
    for axis in sorted(given[1].constant.tolist() if len(given) > 1 else attributes["axes"]):
        made = tf.expand_dims(made, axis)
    return Value(made)


def _squeeze(given: list[Any], attributes: dict[str, Any]) -> Value:
    axes = given[1].constant.tolist() if len(given) > 1 else attributes.get("axes")
    return Value(tf.squeeze(given[0].plain, axes))


def _expand(given: list[Any], attributes: dict[str, Any]) -> Value:
    source, wanted = given[0].plain, given[1].data
    return Value(tf.broadcast_to(source, tf.broadcast_dynamic_shape(tf.shape(source), tf.cast(wanted, tf.int32))))


def _gather(given: list[Any], attributes: dict[str, Any]) -> Value:
    return Value(tf.gather(given[0].plain, given[1].plain, axis=attributes.get("axis", 0)))


def _gather_elements(given: list[Any], attributes: dict[str, Any]) -> Value:
    """Gather along axis 1 of (n, a, k) with the same places for all k: the exported form of a choice of whole rows."""
    source, places = given[0].plain, given[1].plain
    axis, rank = attributes.get("axis", 0), len(source.shape)
    if axis not in (1, 1 - rank) or rank > 3:
        raise ValueError(f"gathering along axis {axis} is not supported")
    if rank == 2:
        return Value(tf.gather(source, places, axis=1, batch_dims=1))
    turned = tf.gather(tf.transpose(source, (0, 2, 1)), tf.transpose(places, (0, 2, 1)), axis=2, batch_dims=2)
    return Value(tf.transpose(turned, (0, 2, 1)))


def _top(given: list[Any], attributes: dict[str, Any]) -> list[Value]:
    if not attributes.get("largest", 1) or attributes.get("axis", -1) not in (-1, len(given[0].plain.shape) - 1):
        raise ValueError("other choices than of the largest in the last axis are not supported")
    found, at = tf.math.top_k(given[0].plain, int(given[1].constant.reshape(-1)[0]))
    return [Value(found), Value(tf.cast(at, tf.int64))]


def _resize(given: list[Any], attributes: dict[str, Any]) -> Value:
    """Resize to a constant size or by constant factors, with the nearest number at the place rounded down.

    Both are exported forms of "nearest".
    """
    how = {name: attributes.get(name, b"") for name in ("mode", "coordinate_transformation_mode", "nearest_mode")}
    if list(how.values()) != [b"nearest", b"asymmetric", b"floor"] or len(given) < 3:
        words = ", ".join(word.decode() for word in how.values() if word)
        raise ValueError(f"resizing other than to the nearest of a given size is not supported ({words})")
    image = _last(given[0])
    if len(given) > 3 and given[3] is not None:
        size = tf.fill(tf.cast(given[3].data, tf.int32), 0).shape[2:].as_list()
    else:
        factors = given[2].constant.tolist()[2:]
        size = [side and int(side * factor) for side, factor in zip(image.shape[1:3], factors, strict=True)]
    if None in size:
        raise ValueError("resizing to a size that is computed from the samples is not supported")
    return Value(tf.raw_ops.ResizeNearestNeighbor(images=image, size=size), True)


def _softmax(given: list[Any], attributes: dict[str, Any]) -> Value:
    return Value(tf.nn.softmax(given[0].plain, axis=attributes.get("axis", -1)))


def _argmax(given: list[Any], attributes: dict[str, Any]) -> Value:
    made = tf.argmax(given[0].plain, attributes.get("axis", 0))
    return Value(tf.expand_dims(made, attributes.get("axis", 0)) if attributes.get("keepdims", 1) else made)


def _division(one: Any, other: Any) -> Any:
    """Integers divide to integers, rounded down; ONNX rounds a negative quotient up."""
    return tf.truediv(one, other) if one.dtype.is_floating else tf.math.floordiv(one, tf.cast(other, one.dtype))


_OPERATIONS: dict[str, _Operation] = {
    "Add": _pairs(tf.add),
    "ArgMax": _argmax,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concatenation,
    "Constant": lambda given, attributes: Value(numpy_helper.to_array(attributes["value"])),
    "Conv": _convolution,
    "Div": _pairs(_division),
    "Exp": _each(tf.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _each(tf.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "Identity": _each(lambda data: data),
    "MatMul": lambda given, attributes: Value(tf.matmul(given[0].plain, given[1].plain)),
    "MaxPool": _max_pool,
    "Mul": _pairs(tf.multiply),
    "Pad": _pad,
    "ReduceMean": _mean,
    "ReduceSum": _reduced(tf.reduce_sum),
    "Relu": _each(tf.nn.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _each(tf.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _pairs(tf.subtract),
    "TopK": _top,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
