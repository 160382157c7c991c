"""What a server tells of itself is the same over gRPC and over HTTP, and requests name what they should."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.operations import (
    BY_METHOD,
    CUDA_MEMORY_STATUS,
    HEALTH_CHECK,
    MEMORY_STATUS,
    MODEL_CONFIG,
    MODEL_INFER,
    MODEL_METADATA,
    MODEL_READY,
    MODEL_STATISTICS,
    OPERATIONS,
    REGISTER_CUDA_MEMORY,
    REGISTER_MEMORY,
    REPOSITORY_INDEX,
    SERVER_LIVE,
    SERVER_METADATA,
    SERVER_READY,
    UNREGISTER_CUDA_MEMORY,
    UNREGISTER_MEMORY,
    NoRoute,
    Operation,
    route,
)
from drumfire.sut.kserve.messages.protobuf import MapOf, Schema
from drumfire.sut.kserve.messages.schemas import CONFIG_TYPES, config_type
from drumfire.sut.kserve.messages.tensors import DATATYPES, TensorSpec
from drumfire.sut.remote.kserve.discovery import Description, _interface

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
        return [told(form[0], one) for one in answer or []]
    if isinstance(form, Mapping):
        return None if answer is None else {name: told(kind, answer.get(name)) for name, kind in form.values()}
    return answer


@pytest.mark.parametrize(("model", "operation", "message", "body"), VECTORS)
def test_both_protocols_answer_alike(model: str, operation: Operation, message: str, body: str) -> None:
    over_grpc = operation.from_message(bytes.fromhex(message))
    form = operation.answer
    if operation.inside is not None:
        ((_, form),) = operation.answer.values()
    said = operation.from_body(body.encode())
    over_http = told(form, said)
    if operation is MODEL_CONFIG:  # of which the vectors have but a part
        over_http = {name: value for name, value in over_http.items() if name in said or over_grpc[name] is None}
        over_grpc = {name: over_grpc[name] for name in over_http}
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
        "Request": {"name": (1, "string"), second: (2, "string"), "offset": (3, "uint64"), "byte_size": (4, "uint64")}
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


# The server's side.


@pytest.mark.parametrize(("model", "operation", "message", "body"), VECTORS)
def test_answers_are_written_as_triton_writes_them(model: str, operation: Operation, message: str, body: str) -> None:
    wire, said = bytes.fromhex(message), json.loads(body)
    if operation is not MODEL_CONFIG:  # of which our form has not all that Triton tells
        written = operation.to_message(operation.from_message(wire))
        assert operation.from_message(written) == operation.from_message(wire)
        assert len(written) == len(wire) or operation is MODEL_STATISTICS  # there zeros and empty messages are told
        ours = json.loads(operation.to_body(operation.from_message(wire)))
        for one in said.get("model_stats", []):
            del one["response_stats"], one["memory_usage"]
        assert ours == said
        assert list(ours) == list(said)
    else:
        ours = json.loads(operation.to_body(operation.from_message(wire)))
        for name, value in said.items():
            if name != "dynamic_batching":
                assert ours[name] == value
            else:
                assert ours[name] == {key: one for key, one in value.items() if key != "priority_queue_policy"}


def test_whole_answers_over_http() -> None:
    assert SERVER_LIVE.to_body({"live": True}) == SERVER_READY.to_body({"ready": False}) == b""
    assert REGISTER_MEMORY.to_body({}) == UNREGISTER_MEMORY.to_body({}) == b""
    index = {"models": [{"name": "m", "version": "1", "state": "READY"}]}
    assert json.loads(REPOSITORY_INDEX.to_body(index)) == [
        {"name": "m", "version": "1", "state": "READY", "reason": ""}
    ]
    assert REPOSITORY_INDEX.from_body(REPOSITORY_INDEX.to_body(index))["models"][0]["state"] == "READY"
    region = {"name": "r", "key": "/k", "offset": 0, "byte_size": 2**40}
    assert json.loads(MEMORY_STATUS.to_body({"regions": {"r": region}})) == [region]
    assert CUDA_MEMORY_STATUS.to_body({"regions": {}}) == b"[]"


class TestArguments:
    @pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.verb and one is not MODEL_INFER])
    @given(data=st.data())
    def test_what_a_client_asks_a_server_hears(self, operation: Operation, data: st.DataObject) -> None:
        kinds = {
            str: st.text("ab/ä %", min_size=1, max_size=5),
            int: st.integers(0, 2**63 - 1),
            bool: st.booleans(),
            bytes: st.binary(max_size=9),
        }
        asked = {name: data.draw(kinds[kind]) for name, kind in operation.fields.values()}
        assert operation.arguments(operation.message(asked)) == asked
        found = route(operation.verb, operation.target(asked))
        assert found.operation is operation
        assert operation.arguments_over_http(found.named, operation.body(asked)) == asked

    @pytest.mark.parametrize(
        ("operation", "body", "text"),
        [
            (REGISTER_MEMORY, b"{", "not JSON"),
            (REGISTER_MEMORY, b"[]", "not a JSON object"),
            (REGISTER_MEMORY, b"[" * 4000, "not JSON"),
            (REGISTER_MEMORY, b'{"key":5}', "key is not text"),
            (REGISTER_MEMORY, b'{"key":"k","offset":-1}', "offset is -1"),
            (REGISTER_MEMORY, b'{"key":"k","byte_size":true}', "byte_size is not an integer"),
            (REGISTER_MEMORY, b'{"key":"k","byte_size":1.5}', "byte_size is not an integer"),
            (REGISTER_MEMORY, b'{"key":"k","byte_size":9223372036854775808}', "not a number from"),
            (REGISTER_CUDA_MEMORY, b'{"raw_handle":"x"}', "raw_handle is not bytes"),
            (REGISTER_CUDA_MEMORY, b'{"raw_handle":{"b64":"?"}}', "raw_handle is not bytes"),
            (REGISTER_CUDA_MEMORY, '{"raw_handle":{"b64":"\u00fc"}}'.encode(), "raw_handle is not bytes"),
            (REPOSITORY_INDEX, b'{"ready":1}', "ready is not a boolean"),
        ],
    )
    def test_wrong_ones_are_refused(self, operation: Operation, body: bytes, text: str) -> None:
        with pytest.raises(ProtocolError, match=text) as refusal:
            operation.arguments_over_http({"name": "r"}, body)
        assert "\n" not in str(refusal.value)

    def test_arguments_as_large_as_tensors_are_refused_unread(self) -> None:
        for large in (b'{"a":[' + b"1," * 4000 + b"1]}", b"[" * 5000):
            with pytest.raises(ProtocolError, match=r"RepositoryIndex: \d+ bytes of arguments; at most 4096"):
                REPOSITORY_INDEX.arguments_over_http({}, large)
        with pytest.raises(ProtocolError, match="8000 bytes of arguments"):
            REPOSITORY_INDEX.arguments(b"\x10\x01" * 4000)
        with pytest.raises(ProtocolError, match="too many fields"):
            REPOSITORY_INDEX.arguments(b"\x10\x01" * 17)

    def test_sizes_beyond_63_bits_are_refused_over_grpc(self) -> None:
        with pytest.raises(ProtocolError, match="byte_size is -1"):
            REGISTER_MEMORY.arguments(b"\x20" + b"\xff" * 9 + b"\x01")

    @given(st.binary(max_size=40))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        for operation in OPERATIONS:
            for read in (operation.arguments, functools.partial(operation.arguments_over_http, {})):
                try:
                    assert set(read(data)) == {name for name, _ in operation.fields.values()}
                except ProtocolError:
                    continue


class TestRoutes:
    @pytest.mark.parametrize(
        ("verb", "target", "operation", "named"),
        [
            ("GET", "/v2", SERVER_METADATA, {}),
            ("GET", "/v2/", SERVER_METADATA, {}),
            ("GET", "/v2/health/live", SERVER_LIVE, {}),
            ("GET", "/v2/health/ready?verbose", SERVER_READY, {}),
            ("GET", "/v2/models/m", MODEL_METADATA, {"name": "m"}),
            ("GET", "/v2/models/a%2Fb/versions/3/ready", MODEL_READY, {"name": "a/b", "version": "3"}),
            ("GET", "/v2/models/m/versions/3", MODEL_METADATA, {"name": "m", "version": "3"}),
            ("GET", "/v2/models/m/config", MODEL_CONFIG, {"name": "m"}),
            ("GET", "/v2/models/stats", MODEL_STATISTICS, {}),
            ("GET", "/v2/models/m/stats", MODEL_STATISTICS, {"name": "m"}),
            ("POST", "/v2/models/m/infer", MODEL_INFER, {"name": "m"}),
            ("POST", "/v2/models/m/versions/1/infer", MODEL_INFER, {"name": "m", "version": "1"}),
            ("POST", "/v2/repository/index", REPOSITORY_INDEX, {}),
            ("GET", "/v2/systemsharedmemory/status", MEMORY_STATUS, {}),
            ("GET", "/v2/systemsharedmemory/region/r/status", MEMORY_STATUS, {"name": "r"}),
            ("POST", "/v2/systemsharedmemory/unregister", UNREGISTER_MEMORY, {}),
            ("POST", "/v2/cudasharedmemory/unregister", UNREGISTER_CUDA_MEMORY, {}),
            ("GET", "/v2/cudasharedmemory/status", CUDA_MEMORY_STATUS, {}),
        ],
    )
    def test_found(self, verb: str, target: str, operation: Operation, named: dict[str, str]) -> None:
        for _ in range(2):
            assert route(verb, target) == (operation, named)

    @pytest.mark.parametrize(
        ("verb", "target", "status"),
        [
            ("GET", "/", 404),
            ("GET", "", 404),
            ("GET", "*", 404),
            ("GET", "/v3", 404),
            ("GET", "/v2/models", 404),
            ("GET", "/v2/models//ready", 404),
            ("GET", "/v2/models/m/versions//ready", 404),
            ("GET", "/v2/models/m/nothing", 404),
            ("GET", "/v2/models/m/{name}", 404),
            ("GET", "/v2/" + "x" * 10_000, 404),
            ("GET", "/v2/models/m/infer", 405),
            ("POST", "/v2/health/live", 405),
            ("DELETE", "/v2/models/m", 405),
        ],
    )
    def test_not_found(self, verb: str, target: str, status: int) -> None:
        with pytest.raises(NoRoute) as refusal:
            route(verb, target)
        assert refusal.value.status == status
        assert len(str(refusal.value)) < 200


def test_methods_have_names_of_their_own() -> None:
    assert len(BY_METHOD) == len(OPERATIONS)
    assert HEALTH_CHECK.service + HEALTH_CHECK.method == "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def pb() -> Any:
    return pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=Exception)


def values_of(form: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Answers of a form, whole."""

    def of(kind: Any) -> st.SearchStrategy[Any]:
        if isinstance(kind, list):
            return st.lists(of(kind[0]), max_size=2)
        if isinstance(kind, tuple):
            return st.sampled_from(kind)
        if isinstance(kind, MapOf):
            return st.dictionaries(st.text(max_size=3), values_of(kind.schema), max_size=2)
        if isinstance(kind, Mapping):
            return values_of(kind)
        return {
            int: st.integers(0, 2**31 - 1),
            bool: st.booleans(),
            str: st.text(max_size=5),
            bytes: st.binary(max_size=5),
        }[kind]

    return st.fixed_dictionaries({name: of(kind) for name, kind in form.values()})


class TestAgainstTritonclient:
    """Its messages are the oracle of ours, each way: what a form names is what it has, and what it means."""

    @pytest.mark.parametrize(
        "operation", [one for one in OPERATIONS if one.answer and one.service == MODEL_INFER.service]
    )
    @given(data=st.data())
    def test_answers(self, pb: Any, operation: Operation, data: st.DataObject) -> None:
        answer = data.draw(values_of(operation.answer))
        if operation is MODEL_CONFIG:  # of a choice, one
            policy, chosen = (
                answer["config"]["version_policy"],
                data.draw(st.sampled_from(["latest", "all", "specific"])),
            )
            policy |= dict.fromkeys({"latest", "all", "specific"} - {chosen})
        told = answer[operation.inside] if operation.inside is not None else answer
        wire = operation.to_message(told)
        message = getattr(pb, f"{operation.method}Response").FromString(wire)
        assert operation.from_message(message.SerializeToString(deterministic=True)) == told
        # Every field that we wrote is one that it knows, under the name that we gave it.
        assert message == json_format.ParseDict(_without_none(answer), type(message)())

    @pytest.mark.parametrize(
        "operation", [one for one in OPERATIONS if one.fields and one.service == MODEL_INFER.service]
    )
    @given(data=st.data())
    def test_requests(self, pb: Any, operation: Operation, data: st.DataObject) -> None:
        if operation is MODEL_INFER:
            return
        asked = data.draw(values_of(operation.fields))
        message = getattr(pb, f"{operation.method}Request")(**asked)
        assert operation.arguments(message.SerializeToString()) == asked
        assert operation.message(asked) == message.SerializeToString()

    def test_datatypes_of_configurations(self) -> None:
        config = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=Exception)
        names = config.DataType.keys()
        assert tuple(names) == CONFIG_TYPES
        assert {config_type(one) for one in (*DATATYPES, "BYTES")} == set(names) - {"TYPE_INVALID"}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
