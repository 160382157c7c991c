"""What a server tells of itself is the same over gRPC and over HTTP, and requests name what they should."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sut.kserve.errors import ProtocolError
from sut.kserve.operations import (
    MODEL_CONFIG,
    MODEL_METADATA,
    MODEL_STATISTICS,
    REGISTER_MEMORY,
    SERVER_METADATA,
    SERVER_READY,
    UNREGISTER_MEMORY,
    Operation,
)
from sut.kserve.tensors import TensorSpec
from sut.triton.discovery import Description, _interface

# Answers of a Triton 2.51.0 to the stubs of tritonclient 2.73.0 (SerializeToString of each) and to plain GETs, after
# two requests of two samples; of the configurations over HTTP only the fields of interest.
VECTORS: list[tuple[str, Operation, str, str]] = [
    (
        "identity_cached",
        MODEL_METADATA,
        "0a0f6964656e746974795f6361636865641201311a06707974686f6e22240a06494e505554301204465033321a14ffffffff"
        "ffffffffff01ffffffffffffffffff012a250a074f5554505554301204465033321a14ffffffffffffffffff01ffffffffff"
        "ffffffff01",
        '{"name":"identity_cached","versions":["1"],"platform":"python","inputs":[{"name":"INPUT0","datatype"'
        ':"FP32","shape":[-1,-1]}],"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[-1,-1]}]}',
    ),
    (
        "identity_cached",
        MODEL_CONFIG,
        "0a85010a0f6964656e746974795f6361636865641a040a02080120402a160a06494e50555430100b220affffffffffffffff"
        "ff0132170a074f555450555430100b1a0affffffffffffffffff013a170a116964656e746974795f6361636865645f301001"
        "200242086d6f64656c2e707962082a020801320208018a0106707974686f6ec201020801",
        '{"name":"identity_cached","platform":"","backend":"python","max_batch_size":64,"input":[{"name":"INP'
        'UT0","data_type":"TYPE_FP32","format":"FORMAT_NONE","dims":[-1],"is_shape_tensor":false,"allow_ragge'
        'd_batch":false,"optional":false,"is_non_linear_format_io":false}],"response_cache":{"enable":true}}',
    ),
    (
        "identity_cached",
        MODEL_STATISTICS,
        "0a790a0f6964656e746974795f63616368656412013118b3f984eaa03420022801323b0a07080210be85912012001a060802"
        "10a3de042206080110faf20d2a07080110aadec61f3206080110fcb7333a05080110ab794206080110c8ea023a1b08021206"
        "080110faf20d1a07080110aadec61f2206080110fcb733",
        '{"model_stats":[{"name":"identity_cached","version":"1","last_inference":1795518708915,"inference_co'
        'unt":2,"execution_count":1,"inference_stats":{"success":{"count":2,"ns":67388094},"fail":{"count":0,'
        '"ns":0},"queue":{"count":2,"ns":77603},"compute_input":{"count":1,"ns":227706},"compute_infer":{"cou'
        'nt":1,"ns":66170666},"compute_output":{"count":1,"ns":842748},"cache_hit":{"count":1,"ns":15531},"ca'
        'che_miss":{"count":1,"ns":46408}},"response_stats":{},"batch_stats":[{"batch_size":2,"compute_input"'
        ':{"count":1,"ns":227706},"compute_infer":{"count":1,"ns":66170666},"compute_output":{"count":1,"ns":'
        '842748}}],"memory_usage":[]}]}',
    ),
    (
        "digits",
        MODEL_METADATA,
        "0a066469676974731201311a06707974686f6e221c0a05696e7075741204465033321a0dffffffffffffffffff010108082a"
        "1b0a066c6f676974731204465033321a0bffffffffffffffffff010a",
        '{"name":"digits","versions":["1"],"platform":"python","inputs":[{"name":"input","datatype":"FP32","s'
        'hape":[-1,1,8,8]}],"outputs":[{"name":"logits","datatype":"FP32","shape":[-1,10]}]}',
    ),
    (
        "digits",
        MODEL_CONFIG,
        "0a610a066469676974731a040a02080120402a0e0a05696e707574100b2203010808320d0a066c6f67697473100b1a010a3a"
        "0e0a086469676974735f301001200242086d6f64656c2e70795a030a014062082a020801320208018a0106707974686f6e",
        '{"name":"digits","platform":"","backend":"python","max_batch_size":64,"input":[{"name":"input","data'
        '_type":"TYPE_FP32","format":"FORMAT_NONE","dims":[1,8,8],"is_shape_tensor":false,"allow_ragged_batch'
        '":false,"optional":false,"is_non_linear_format_io":false}],"dynamic_batching":{"preferred_batch_size'
        '":[64],"max_queue_delay_microseconds":0,"preserve_ordering":false,"priority_levels":0,"default_prior'
        'ity_level":0,"priority_queue_policy":{}}}',
    ),
    (
        "digits",
        MODEL_STATISTICS,
        "0a650a0664696769747312013118b7fa84eaa0342004280232300a07080210b093913e12001a0608021097a0102206080210"
        "c888042a07080210d29aef3d3206080210db9b0d3a0042003a1b08021206080210c888041a07080210d29aef3d2206080210"
        "db9b0d",
        '{"model_stats":[{"name":"digits","version":"1","last_inference":1795518709047,"inference_count":4,"e'
        'xecution_count":2,"inference_stats":{"success":{"count":2,"ns":130304432},"fail":{"count":0,"ns":0},'
        '"queue":{"count":2,"ns":266263},"compute_input":{"count":2,"ns":66632},"compute_infer":{"count":2,"n'
        's":129748306},"compute_output":{"count":2,"ns":216539},"cache_hit":{"count":0,"ns":0},"cache_miss":{'
        '"count":0,"ns":0}},"response_stats":{},"batch_stats":[{"batch_size":2,"compute_input":{"count":2,"ns'
        '":66632},"compute_infer":{"count":2,"ns":129748306},"compute_output":{"count":2,"ns":216539}}],"memo'
        'ry_usage":[]}]}',
    ),
    (
        "-",
        SERVER_METADATA,
        "0a06747269746f6e1206322e35312e301a0e636c617373696669636174696f6e1a0873657175656e63651a106d6f64656c5f"
        "7265706f7369746f72791a236d6f64656c5f7265706f7369746f727928756e6c6f61645f646570656e64656e7473291a0f73"
        "63686564756c655f706f6c6963791a136d6f64656c5f636f6e66696775726174696f6e1a1473797374656d5f736861726564"
        "5f6d656d6f72791a12637564615f7368617265645f6d656d6f72791a1262696e6172795f74656e736f725f646174611a0a70"
        "6172616d65746572731a0a737461746973746963731a0574726163651a076c6f6767696e67",
        '{"name":"triton","version":"2.51.0","extensions":["classification","sequence","model_repository","mo'
        'del_repository(unload_dependents)","schedule_policy","model_configuration","system_shared_memory","c'
        'uda_shared_memory","binary_tensor_data","parameters","statistics","trace","logging"]}',
    ),
]


def told(form: Any, answer: Any) -> Any:
    """Of an answer over HTTP what the form over gRPC names."""
    if isinstance(form, list):
        return [told(form[0], one) for one in answer]
    if isinstance(form, Mapping):
        return None if answer is None else {name: told(kind, answer.get(name)) for name, kind in form.values()}
    return answer


@pytest.mark.parametrize(("model", "operation", "message", "body"), VECTORS)
def test_both_protocols_answer_alike(model: str, operation: Operation, message: str, body: str) -> None:
    over_grpc = operation.from_message(bytes.fromhex(message))
    form = operation.answer
    if operation.inside is not None:
        ((_, form),) = operation.answer.values()
    over_http = told(form, operation.from_body(body.encode()))
    assert over_grpc == over_http
    assert over_grpc.get("name", model) in (model, "triton")


def described(model: str, *, over_grpc: bool) -> Description:
    """As ``describe`` does it."""
    answers = [
        operation.from_message(bytes.fromhex(message)) if over_grpc else operation.from_body(body.encode())
        for operation in (MODEL_METADATA, MODEL_CONFIG)
        for name, known, message, body in VECTORS
        if name == model and known is operation
    ]
    metadata, configuration = answers
    return Description(_interface(metadata, configuration, model, ""), "", configuration)


@pytest.mark.parametrize("over_grpc", [False, True])
def test_a_model_is_described_alike(over_grpc: bool) -> None:
    digits = described("digits", over_grpc=over_grpc)
    assert digits.interface.inputs == (TensorSpec("input", "FP32", (1, 8, 8)),)
    assert digits.interface.outputs == (TensorSpec("logits", "FP32", (10,)),)
    assert digits.interface.max_batch_size == 64
    assert digits.dynamic_batching is True
    assert not digits.response_cache
    cached = described("identity_cached", over_grpc=over_grpc)
    assert cached.interface.inputs == (TensorSpec("INPUT0", "FP32", (-1,)),)
    assert cached.dynamic_batching is False
    assert cached.response_cache


def test_a_batcher_whose_settings_are_all_default_is_one() -> None:
    over_grpc = MODEL_CONFIG.from_message(b"\x0a\x02\x5a\x00")
    assert Description(described("digits", over_grpc=True).interface, "", over_grpc).dynamic_batching is True
    assert MODEL_CONFIG.from_message(b"") == {}


@pytest.mark.parametrize(
    ("operation", "arguments", "fields", "target", "body"),
    [
        (SERVER_METADATA, {}, {}, "/v2", b""),
        (SERVER_READY, {}, {}, "/v2/health/ready", b""),
        (MODEL_METADATA, {"name": "a/b"}, {"name": "a/b"}, "/v2/models/a%2Fb", b""),
        (
            MODEL_STATISTICS,
            {"name": "m", "version": "3"},
            {"name": "m", "version": "3"},
            "/v2/models/m/versions/3/stats",
            b"",
        ),
        (
            REGISTER_MEMORY,
            {"name": "r1", "key": "/k", "offset": 4096, "byte_size": 1 << 40},
            {"name": "r1", "key": "/k", "offset": 4096, "byte_size": 1 << 40},
            "/v2/systemsharedmemory/region/r1/register",
            {"key": "/k", "offset": 4096, "byte_size": 1 << 40},
        ),
        (UNREGISTER_MEMORY, {"name": "r1"}, {"name": "r1"}, "/v2/systemsharedmemory/region/r1/unregister", {}),
    ],
)
def test_requests(
    google: Any, operation: Operation, arguments: dict[str, Any], fields: dict[str, Any], target: str, body: Any
) -> None:
    second = "key" if operation is REGISTER_MEMORY else "version"
    table = {
        "Request": {
            "name": (1, "string"),
            second: (2, "string"),
            "offset": (3, "uint64"),
            "byte_size": (4, "uint64"),
        }
    }
    request = google.messages(table).Request(**fields)
    assert operation.message(arguments) == request.SerializeToString()
    assert operation.target(arguments) == target
    said = operation.body(arguments)
    assert (json.loads(said) if isinstance(body, dict) else said) == body


@given(st.binary(max_size=60))
def test_any_message_is_read_or_refused(message: bytes) -> None:
    for operation in (MODEL_METADATA, MODEL_CONFIG, MODEL_STATISTICS, SERVER_METADATA, SERVER_READY):
        try:
            assert isinstance(operation.from_message(message), dict)
        except ProtocolError:
            continue


def test_what_is_no_json_object_is_refused() -> None:
    for body in (b"[]", b"1", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            MODEL_METADATA.from_body(body)
    assert SERVER_READY.from_body(b"") == {}
