"""KServe v2 over gRPC, server side: ModelInferRequest in, ModelInferResponse or ModelStreamInferResponse out.

Handles these messages.  Does not depend on connections or on what the tensors mean.
Source: KServe's open_inference_grpc.proto with Triton's extensions.

A request that differs from an earlier one only in its id and contents is not parsed: its other bytes are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.exchange import REGION_NAME, Buffer, Region
from drumfire.sut.kserve.messages.inference import (
    MOST_JSON,
    InferAnswer,
    InferRequest,
    RequestedOutput,
    RequestInput,
    form_of,
    label,
    refuse_classification,
    take_region,
)
from drumfire.sut.kserve.messages.protobuf import (
    LENGTH,
    Field,
    bytes_field,
    bytes_head,
    decode,
    fields,
    number_field,
    numbers_field,
    real_field,
    text_field,
)
from drumfire.sut.kserve.messages.tensors import TensorError, check_tensor
from drumfire.sut.kserve.messages.typed_contents import typed_contents

_MOST_LAYOUTS = 512
_MOST_ALIKE = 8
"""Layouts kept for requests of one length."""
_LARGEST_LAYOUT = 8192
_MOST_HEADS = 4096

_MOST_FIELDS = 2048
"""Fields of a request: inputs, outputs, parameters and contents."""
_MOST_FIELDS_OF_INPUT = 64
_LARGEST_DESCRIPTION = 16_384
"""Bytes of an input without its contents, of an output or of a parameter."""

_ENTRY = {1: ("key", str), 2: ("value", bytes)}
_INPUT = {1: ("name", str), 2: ("datatype", str), 3: ("shape", [int]), 4: ("parameters", [_ENTRY])}
_OUTPUT = {1: ("name", str), 2: ("parameters", [_ENTRY])}


class _Layout(NamedTuple):
    """What requests like an earlier one have in common."""

    literals: Sequence[tuple[int, int, bytes]]
    """All bytes outside the id and the contents: first, last, bytes."""
    id: tuple[int, int]
    contents: Sequence[tuple[int, int]]
    """First and last by input; (-1, -1) in shared memory."""
    example: InferRequest


class GrpcInference:
    """Reads requests and writes answers.  One object serves all connections."""

    def __init__(self, most_typed: int = MOST_JSON) -> None:
        """``most_typed``: bytes of an input's typed contents that take time to read."""
        self._most_typed = most_typed
        self._layouts: dict[int, list[_Layout]] = {}
        self._kept = 0
        self._heads: dict[tuple[object, ...], tuple[bytes, bytes, Sequence[bytes]]] = {}

    def parse_request(self, message: Buffer) -> InferRequest:
        """Read a ModelInferRequest (without prefix).  Raises ``ProtocolError`` or ``TensorError``, each one line."""
        for layout in self._layouts.get(len(message), ()):
            for first, last, literal in layout.literals:
                if message[first:last] != literal:
                    break
            else:
                return _alike(message, layout)
        return self._parse(message)

    def build_answer(self, answer: InferAnswer) -> bytes:
        """A ModelInferResponse (without prefix).  Raises ``TensorError`` if an output's contents do not fit its
        shape."""
        model, version, request_id, outputs, parameters = answer
        key: tuple[object, ...]
        if len(outputs) == 1:
            name, datatype, shape, data, region = outputs[0]
            key = (model, version, name, datatype, shape, region if data is None else len(data))
        else:
            key = (model, version, *map(form_of, outputs))
        head = None if parameters else self._heads.get(key)
        if head is None:
            head = _head(answer)
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            if not parameters:
                self._heads[key] = head
        start, middle, raw_heads = head
        id_field = text_field(3, request_id) if request_id else b""
        if len(outputs) == 1:
            return b"".join((start, id_field, middle, raw_heads[0], outputs[0].data or b""))
        pieces: list[Buffer] = [start, id_field, middle]
        for output, raw_head in zip(outputs, raw_heads, strict=True):
            pieces += (raw_head, output.data or b"")
        return b"".join(pieces)

    def _parse(self, message: Buffer) -> InferRequest:
        found = _Found()
        for field in fields(message, _MOST_FIELDS):
            found.take(field)
        inputs = []
        spans = _spans(found)
        for place, (described, typed) in enumerate(found.inputs):
            parameters = _parameters(described["parameters"])
            name, datatype, shape = described["name"], described["datatype"], tuple(described["shape"])
            region = take_region(parameters, name)
            data: Buffer | Region
            if region is not None:
                if typed is not None or spans[place][1] > spans[place][0]:
                    raise TensorError(f"{label('input', name)} has contents and also names shared memory")
                check_tensor(label("input", name), datatype, shape, None)
                data = region
            else:
                first, last = spans[place]
                if typed is not None:
                    data = typed_contents(label("input", name), datatype, shape, typed, self._most_typed)
                elif first < 0:
                    raise TensorError(f"{label('input', name)} has no contents")
                else:
                    data = message[first:last]
                check_tensor(label("input", name), datatype, shape, data)
            inputs.append(RequestInput(name, datatype, shape, data))
        outputs = []
        for one in found.outputs:
            parameters = _parameters(one["parameters"])
            refuse_classification(parameters, one["name"])
            outputs.append(RequestedOutput(one["name"], take_region(parameters, one["name"])))
        request = InferRequest(
            found.texts[1], found.texts[2], found.texts[3], _parameters(found.parameters), inputs, outputs
        )
        self._learn(message, request, found, spans)
        return request

    def _learn(self, message: Buffer, request: InferRequest, found: _Found, spans: Sequence[tuple[int, int]]) -> None:
        if found.is_odd or any(one.datatype == "BYTES" and not isinstance(one.data, Region) for one in request.inputs):
            return
        if len(message) - sum(last - first for first, last in spans) > _LARGEST_LAYOUT:
            return
        alike = self._layouts.setdefault(len(message), [])
        if len(alike) >= _MOST_ALIKE or self._kept >= _MOST_LAYOUTS:
            self._kept -= len(alike)
            alike.clear()
        if self._kept >= _MOST_LAYOUTS:
            self._layouts = {len(message): alike}
            self._kept = 0
        literals, at = [], 0
        contents = [span for span in spans if span[0] >= 0]
        for first, last in sorted([found.id, *contents, (len(message), len(message))]):
            if first > at:
                literals.append((at, first, bytes(message[at:first])))
            at = max(at, last)
        spans = [
            (-1, -1) if isinstance(one.data, Region) else span for one, span in zip(request.inputs, spans, strict=True)
        ]
        alike.append(_Layout(literals, found.id, spans, request.without_contents()))
        self._kept += 1


class _Found:
    """The fields of a request, collected in order of arrival."""

    def __init__(self) -> None:
        self.texts = {1: "", 2: "", 3: ""}
        self.id = (0, 0)
        self.parameters: list[Mapping[str, Any]] = []
        self.inputs: list[tuple[dict[str, Any], Buffer | None]] = []
        self.outputs: list[dict[str, Any]] = []
        self.raw: list[tuple[int, int]] = []
        self.is_odd = False
        """The request is unusual and must not become an example for others."""

    def take(self, field: Field) -> None:
        number, wire_type, value, first = field
        if number > 7:
            self.is_odd = True
            return
        if isinstance(value, int) or wire_type != LENGTH:
            raise ProtocolError(f"field {number} of a ModelInferRequest has the wire type {wire_type}, not 2")
        if number <= 3:
            try:
                self.texts[number] = bytes(value).decode()
            except UnicodeDecodeError:
                raise ProtocolError(f"field {number} of a ModelInferRequest is not text") from None
            if number == 3:
                self.is_odd = self.is_odd or self.id != (0, 0)
                self.id = (first, first + len(value))
        elif number == 5:
            typed = None
            for inner in fields(value, _MOST_FIELDS_OF_INPUT):
                if inner.number == 5 and not isinstance(inner.value, int):
                    self.is_odd = True
                    typed = inner.value if inner.value else typed
            _check_description(len(value) - len(typed or b""))
            self.inputs.append((decode(value, _INPUT), typed))
        elif number == 7:
            self.raw.append((first, first + len(value)))
        else:
            _check_description(len(value))
            if number == 4:
                self.parameters.append(decode(value, _ENTRY))
            else:
                self.outputs.append(decode(value, _OUTPUT))


def _check_description(size: int) -> None:
    if size > _LARGEST_DESCRIPTION:
        raise ProtocolError(f"{size} bytes that only describe a tensor; at most {_LARGEST_DESCRIPTION} are accepted")


def _spans(found: _Found) -> list[tuple[int, int]]:
    """First and last of each input's raw contents; (-1, -1) without raw contents.

    For an input in shared memory, clients send an empty raw entry or none at all.
    """
    count = len(found.inputs)
    if any(typed is not None for _, typed in found.inputs):
        if found.raw:
            raise TensorError("a request with both raw and typed contents: use one kind for all inputs")
        return [(-1, -1)] * count
    shared = [any(entry["key"] == REGION_NAME for entry in described["parameters"]) for described, _ in found.inputs]
    if len(found.raw) == count:
        return found.raw
    if len(found.raw) == count - sum(shared):
        rest = iter(found.raw)
        return [(-1, -1) if is_shared else next(rest) for is_shared in shared]
    raise TensorError(f"a request of {count} inputs with the raw contents of {len(found.raw)}")


def _alike(message: Buffer, layout: _Layout) -> InferRequest:
    example = layout.example
    model, version, _, parameters, inputs, outputs, _ = example
    first, last = layout.id
    try:
        request_id = str(message[first:last], "utf-8") if last > first else ""
    except UnicodeDecodeError:
        raise ProtocolError("field 3 of a ModelInferRequest is not text") from None
    given = []
    for place, (first, last) in enumerate(layout.contents):
        name, datatype, shape, data = inputs[place]
        given.append(RequestInput(name, datatype, shape, data if first < 0 else message[first:last]))
    return InferRequest(model, version, request_id, parameters, given, outputs)


def _parameters(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A map of parameters, without those that have no value."""
    found: dict[str, Any] = {}
    for entry in entries:
        for field in fields(entry["value"]):
            form = _PARAMETER.get(field.number)
            if form is not None:
                found[entry["key"]] = decode(entry["value"], {field.number: form})["value"]
    return found


_PARAMETER = {1: ("value", bool), 2: ("value", int), 3: ("value", str), 4: ("value", float), 5: ("value", int)}
"""The alternatives of InferParameter, by field; the last one in the message counts."""


def _head(answer: InferAnswer) -> tuple[bytes, bytes, Sequence[bytes]]:
    """The bytes before an answer's id, those after it, and those before each output's contents."""
    start = text_field(1, answer.model) if answer.model else b""
    if answer.version:
        start += text_field(2, answer.version)
    middle = [bytes_field(4, _entry(key, value)) for key, value in answer.parameters.items()]
    raw_heads = []
    for name, datatype, shape, data, region in answer.outputs:
        output = text_field(1, name) + text_field(2, datatype)
        if shape:
            output += numbers_field(3, shape)
        if region is not None:
            for key, value in region.parameters().items():
                output += bytes_field(4, _entry(key, value))
        elif data is None:
            raise TensorError(f"{label('output', name)} has no contents")
        else:
            check_tensor(label("output", name), datatype, shape, data)
        middle.append(bytes_field(5, output))
        # An output in shared memory has one too: clients expect an entry for each output.
        raw_heads.append(bytes_head(6, 0 if data is None else len(data)))
    return start, b"".join(middle), raw_heads


def _entry(key: str, value: Any) -> bytes:
    """An entry of a map of parameters."""
    if isinstance(value, bool):
        parameter = number_field(1, value)
    elif isinstance(value, int):
        parameter = number_field(2, value)
    elif isinstance(value, float):
        parameter = real_field(4, value)
    else:
        parameter = text_field(3, value)
    return text_field(1, key) + bytes_field(2, parameter)


def stream_answer(message: bytes) -> bytes:
    """A ModelStreamInferResponse with an answer from ``build_answer``."""
    return bytes_field(2, message)


def stream_error(text: str, request_id: str = "") -> bytes:
    """A ModelStreamInferResponse that refuses ``request_id``; the stream stays open."""
    return text_field(1, text) + bytes_field(2, text_field(3, request_id) if request_id else b"")
