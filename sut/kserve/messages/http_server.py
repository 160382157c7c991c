"""KServe v2 over HTTP, server side: inference requests and answers as bodies of JSON, followed by binary tensors.

Handles the JSON and the binary tensor extension.  Does not depend on connections or on what the tensors mean.
Sources: KServe's "Open Inference Protocol (v2)"; the "Binary tensor data extension" of Triton's protocol.

JSON that differs from earlier JSON only in an id at its start is not parsed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.http1.connection import build_response
from drumfire.sut.kserve.http1.head import INFERENCE_HEADER_LENGTH, RequestHead
from drumfire.sut.kserve.messages.exchange import REGION_NAME, Buffer, Region
from drumfire.sut.kserve.messages.inference import (
    MOST_JSON,
    AnswerOutput,
    InferAnswer,
    InferRequest,
    RequestedOutput,
    RequestInput,
    form_of,
    label,
    refuse_classification,
    take_region,
)
from drumfire.sut.kserve.messages.operations import route
from drumfire.sut.kserve.messages.tensors import (
    TensorError,
    check_tensor,
    from_json_values,
    to_json_values,
)

_BYTES_OF_VALUE = 8
"""Such JSON may have a number, list or member for this many bytes: short ones take as long as others."""
_MOST_LAYOUTS = 1024
_LARGEST_LAYOUT = 8192
_MOST_TEXTS = 4096
_ID = b'{"id":"'


class _Layout(NamedTuple):
    """A request's JSON, parsed."""

    size: int
    """Bytes of all binary tensors after the JSON."""
    contents: Sequence[tuple[int, int]]
    """First and last by input, counted from the end of the JSON; (-1, -1) in shared memory."""
    example: InferRequest


class HttpInference:
    """Reads requests and writes answers.  One object serves all connections."""

    def __init__(self, most_json: int = MOST_JSON) -> None:
        """``most_json``: bytes of a request's JSON."""
        self._most_json = most_json
        self._layouts: dict[bytes, _Layout] = {}
        self._texts: dict[tuple[object, ...], bytes] = {}
        self._heads: dict[tuple[int, int, bool], bytes] = {}

    def parse_request(self, head: RequestHead, body: Buffer, path: str) -> InferRequest:
        """Read the body of a POST to ``/v2/models/M[/versions/V]/infer``.  Raises ``TensorError`` with one line."""
        coding = head.fields.get("content-encoding", "identity")
        if coding != "identity":
            raise TensorError(f"a request in {one_line(coding, 40)}: send it uncompressed (Content-Encoding: identity)")
        named = route("POST", path).named
        json_size = head.inference_header_length
        if json_size is None:
            json_size = len(body)
        elif json_size > len(body):
            raise TensorError(f"a body of {len(body)} bytes with {json_size} bytes of JSON ({INFERENCE_HEADER_LENGTH})")
        text = bytes(body[:json_size])
        layout, request_id = self._layouts.get(text), b""
        if layout is None and text.startswith(_ID):
            end = text.find(b'"', len(_ID))
            request_id, key = text[len(_ID) : end], _without_id(text, end)
            layout = self._layouts.get(key)
            if layout is not None and (b"\\" in request_id or min(request_id, default=32) < 32):
                layout = None
        model, version = named["name"], named.get("version", "")
        if layout is None or json_size + layout.size != len(body):
            return self._parse(text, body, model, version)
        _, _, _, parameters, examples, outputs, binary = layout.example
        inputs = []
        for place, (first, last) in enumerate(layout.contents):
            name, datatype, shape, data = examples[place]
            contents = data if first < 0 else body[json_size + first : json_size + last]
            inputs.append(RequestInput(name, datatype, shape, contents))
        try:
            id_text = request_id.decode() if request_id else ""
        except UnicodeDecodeError:
            raise TensorError("the request's id is not text") from None
        return InferRequest(model, version, id_text, parameters, inputs, outputs, binary)

    def build_answer(self, answer: InferAnswer, request: InferRequest, *, closing: bool = False) -> bytes:
        """A whole response with its head.  Outputs are bytes or JSON, as requested; ``closing`` announces in the head
        that the connection closes.

        Raises ``TensorError`` for contents that do not fit the shape, and for contents that JSON cannot express (NaN,
        infinities, BYTES that are not text, BF16): the client must request binary data.
        """
        outputs = answer.outputs
        if not request.outputs:
            binary = [request.binary] * len(outputs)
        elif len(request.outputs) == 1 == len(outputs):
            binary = [request.outputs[0].binary]
        else:
            asked = {one.name: one.binary for one in request.outputs}
            binary = [asked.get(one.name, request.binary) for one in outputs]
        text = self._text(answer, binary)
        pieces: list[Buffer] = []
        size = len(text)
        for place, one in enumerate(outputs):
            if one.data is not None and binary[place]:
                pieces.append(one.data)
                size += len(one.data)
        if answer.id:
            start = b'{"id":%b,' % orjson.dumps(answer.id)
            text = start + text[1:]
            size += len(start) - 1
        key = (len(text) if pieces else -1, size, closing)
        return b"".join((self._heads.get(key) or self._head(*key), text, *pieces))

    def _text(self, answer: InferAnswer, binary: Sequence[bool]) -> bytes:
        """The JSON of an answer without its id."""
        outputs = answer.outputs
        if answer.parameters or not all(binary):
            return _text(answer, binary)
        key: tuple[object, ...]
        if len(outputs) == 1:
            name, datatype, shape, data, region = outputs[0]
            key = (answer.model, answer.version, name, datatype, shape, region if data is None else len(data))
        else:
            key = (answer.model, answer.version, *map(form_of, outputs))
        text = self._texts.get(key)
        if text is None:
            text = _text(answer, binary)
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            self._texts[key] = text
        return text

    def _head(self, json_size: int, size: int, closing: bool) -> bytes:
        """``json_size``: -1 if nothing follows the JSON."""
        if json_size < 0:
            fields = [("Content-Type", "application/json")]
        else:
            fields = [("Content-Type", "application/octet-stream"), (INFERENCE_HEADER_LENGTH, str(json_size))]
        if closing:
            fields.append(("Connection", "close"))
        head = build_response(200, fields, size)
        if len(self._heads) >= _MOST_TEXTS:
            self._heads.clear()
        self._heads[json_size, size, closing] = head
        return head

    def _parse(self, text: bytes, body: Buffer, model: str, version: str) -> InferRequest:
        document = _load(text, self._most_json)
        request_id = document.get("id", "")
        if not isinstance(request_id, str):
            raise TensorError("the request's id is not a string")
        parameters = _parameters(document, "the request")
        binary = parameters.pop("binary_data_output", False) is True
        inputs: list[RequestInput] = []
        spans: list[tuple[int, int]] = []
        at = len(text)
        is_lasting = len(text) <= _LARGEST_LAYOUT
        for one in _members(document, "inputs"):
            given, size = _input(one, body, at)
            in_text = not isinstance(given.data, Region) and size is None
            is_lasting = is_lasting and not in_text and given.datatype != "BYTES"
            first = -1 if size is None else at - len(text)
            spans.append((first, first + (size or 0)))
            at += size or 0
            inputs.append(given)
        if not inputs:
            raise TensorError("a request without inputs")
        if at != len(body):
            raise TensorError(f"{len(body) - at} bytes after the request's last tensor")
        outputs = [_output(one, binary) for one in _members(document, "outputs")]
        request = InferRequest(model, version, request_id, parameters, inputs, outputs, binary)
        if is_lasting:
            self._learn(text, request, spans, at - len(text))
        return request

    def _learn(self, text: bytes, request: InferRequest, spans: Sequence[tuple[int, int]], size: int) -> None:
        key = text
        if request.id:
            end = text.find(b'"', len(_ID))
            if not text.startswith(_ID) or text[len(_ID) : end] != request.id.encode("utf-8", "surrogatepass"):
                return  # the id is elsewhere in the JSON, or contains escapes
            key = _without_id(text, end)
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        self._layouts[key] = _Layout(size, spans, request.without_contents())


def _without_id(text: bytes, end: int) -> bytes:
    """The key of JSON that begins with an id ending at ``end``; JSON itself never begins with a NUL."""
    return b"\0" + text[end:]


def too_much_json(size: int, what: str, most: int) -> str:
    """What a client reads that sent JSON of ``size`` bytes or values."""
    fix = "send binary tensors, or raise the server's --max-json-size"
    return f"JSON of {size} {what}; at most {most} are accepted: {fix}"


def _load(text: bytes, most: int) -> dict[str, Any]:
    if len(text) > most:
        raise TensorError(too_much_json(len(text), "bytes", most))
    values, most_values = sum(map(text.count, (b",", b":", b"[", b"{"))), most // _BYTES_OF_VALUE
    if values > most_values:
        raise TensorError(too_much_json(values, "values", most_values))
    try:
        document = orjson.loads(text)
    except ValueError as error:
        why = one_line(str(error), 100)
        raise TensorError(f"the request is not JSON: {why} (send NaN and infinity in binary tensors)") from None
    if not isinstance(document, dict):
        raise TensorError("the request is not a JSON object")
    return document


def _members(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    members = document.get(name, [])
    if not isinstance(members, list) or not all(isinstance(one, dict) for one in members):
        raise TensorError(f"{name} is not a list of objects")
    return members


def _parameters(document: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise TensorError(f"{what} has parameters that are not an object")
    return dict(parameters)


def _name(one: Mapping[str, Any], what: str) -> str:
    name = one.get("name")
    if not isinstance(name, str):
        raise TensorError(f"an {what} without a name")
    return name


def _input(one: Mapping[str, Any], body: Buffer, at: int) -> tuple[RequestInput, int | None]:
    """An input, and how many bytes of ``body`` it takes from ``at`` on; None if its contents are elsewhere."""
    name = _name(one, "input")
    what = label("input", name)
    datatype, shape = one.get("datatype"), one.get("shape")
    if not isinstance(datatype, str):
        raise TensorError(f"{what} has no datatype")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise TensorError(f"{what} has no shape of integers")
    parameters = _parameters(one, what)
    region, size = take_region(parameters, name), parameters.get("binary_data_size")
    if (region is not None) + (size is not None) + ("data" in one) != 1:
        raise TensorError(f"{what} must have one of data, binary_data_size and {REGION_NAME}")
    if region is not None:
        check_tensor(what, datatype, shape, None)
        return RequestInput(name, datatype, tuple(shape), region), None
    if size is not None:
        if type(size) is not int or size < 0:
            raise TensorError(f"{what}: binary_data_size is not a size in bytes")
        if size > len(body) - at:
            raise TensorError(f"{what} runs past the end of the request")
        data = body[at : at + size]
        check_tensor(what, datatype, shape, data)
        return RequestInput(name, datatype, tuple(shape), data), size
    check_tensor(what, datatype, shape, None)
    try:
        contents = from_json_values(one["data"], datatype)
    except TensorError as error:
        raise TensorError(f"{what}: {error}") from None
    check_tensor(what, datatype, shape, contents)
    return RequestInput(name, datatype, tuple(shape), contents), None


def _output(one: Mapping[str, Any], binary: bool) -> RequestedOutput:
    name = _name(one, "output")
    parameters = _parameters(one, label("output", name))
    refuse_classification(parameters, name)
    own = parameters.get("binary_data", binary)
    if not isinstance(own, bool):
        raise TensorError(f"{label('output', name)}: binary_data is neither true nor false")
    return RequestedOutput(name, take_region(parameters, name), own)


def _text(answer: InferAnswer, binary: Sequence[bool]) -> bytes:
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.parameters:
        document["parameters"] = dict(answer.parameters)
    document["outputs"] = [_described(one, is_binary) for one, is_binary in zip(answer.outputs, binary, strict=True)]
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _described(output: AnswerOutput, binary: bool) -> dict[str, Any]:
    name, datatype, shape, data, region = output
    what = label("output", name)
    document: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    if region is not None:
        return document  # like Triton: perf_analyzer takes any parameters for those of binary contents
    if data is None:
        raise TensorError(f"{what} has no contents")
    if binary:
        check_tensor(what, datatype, shape, data)
        document["parameters"] = {"binary_data_size": len(data)}
    else:
        try:
            document["data"] = to_json_values(datatype, shape, data)
        except TensorError as error:
            raise TensorError(f"{what}: {error}") from None
    return document
