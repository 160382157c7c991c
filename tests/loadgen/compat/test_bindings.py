"""The module's objects behave as those of the reference's bindings: each line is evaluated with both modules.

Where the reference is not installed, and for what it can not do itself, what is expected stands here.
"""

import copy
import importlib
import importlib.util
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.compat import api

needs_reference = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None,
    reason="the reference is not here: pip install mlcommons_loadgen",
)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return importlib.import_module("mlperf_loadgen")


ENUMERATIONS = """
repr(S.Server)
str(S.Server)
f"{S.Server}"
int(S.Server)
float(S.Server)
[0, 1, 2][S.Server]
range(S.Server)
"%d" % S.Server
S.Server.name
S.Server.value
hash(S.Server)
bool(S.SingleStream)
S.Server == 2
2 == S.Server
S.Server != 2
S.Server == 2.0
S.Server == "Server"
S.Server == None
S.Server == M.PerformanceOnly
S.Server != M.PerformanceOnly
S(2) == S.Server
S(2) is S.Server
S.Server is S.Server
{S.Server: 1}[S(2)]
S(2)
S(7)
S(-1)
S(7).name
str(S(7))
S(7) == 7
S(value=2)
S(True)
S(S.Server)
S.Server.Offline
S.__members__
S.Server.__members__
M.__members__
lg.LoggingMode.__members__
S.__doc__
S.Server < S.Offline
S.Server < 3
S.Server & 1
~S.Server
S()
S(2.5)
S("Server")
S(2**40)
S["Server"]
list(S)
S.Nothing
S.Server.nothing
setattr(S.Server, "value", 1)
setattr(S.Server, "name", "x")
setattr(S.Server, "nothing", 1)
pickle.loads(pickle.dumps(S.Server))
copy.copy(S.Server)
copy.deepcopy(M.AccuracyOnly)
S.__name__
""".strip().splitlines()

SAMPLES = """
lg.QuerySample().id
lg.QuerySample(1, 2).index
lg.QuerySample(np.int64(3), np.uint32(4)).id
lg.QuerySample(True, 4).id
lg.QuerySample(S.Server, 4).id
lg.QuerySample(0, 2**64 - 1).index
lg.QuerySample(-1, 2)
lg.QuerySample(1.0, 2)
lg.QuerySample(np.float64(1), 2)
lg.QuerySample("1", 2)
lg.QuerySample(1)
lg.QuerySample(id=1, index=2)
lg.QuerySample(1, 2) == lg.QuerySample(1, 2)
setattr(lg.QuerySample(), "nothing", 1)
pickle.loads(pickle.dumps(lg.QuerySample(5, 6))).index
copy.copy(lg.QuerySample(5, 6)).id
lg.QuerySampleResponse().size
lg.QuerySampleResponse(1, 2, 3).n_tokens
lg.QuerySampleResponse(1, 2, 3, 4).n_tokens
lg.QuerySampleResponse(1, 2, 3, -4).n_tokens
lg.QuerySampleResponse(1, 2)
lg.QuerySampleResponse(1, 2, 3.0)
lg.QuerySampleResponse(1, None, 3)
setattr(lg.QuerySampleResponse(), "nothing", 1)
lg.VectorQuerySample().id
pickle.dumps(lg.VectorQuerySample())
copy.copy(lg.VectorQuerySampleResponse())
""".strip().splitlines()

SETTINGS = [
    (line, after)
    for line, after in (
        ("s.scenario = S.Offline", "s.scenario"),
        ("s.scenario = 2", ""),
        ("s.scenario = M.PerformanceOnly", ""),
        ("pass", "s.scenario is S.SingleStream"),
        ("pass", "s.scenario is s.scenario"),
        ("kept = s.mode; s.mode = M.AccuracyOnly", "kept"),
        ("s.nothing = 1", ""),
        ("s.min_duration_ms = 1.5", ""),
        ("s.min_duration_ms = -1", ""),
        ("s.min_duration_ms = True", "s.min_duration_ms"),
        ("s.min_query_count = np.int64(5)", "s.min_query_count"),
        ("s.min_query_count = np.float32(5)", "s.min_query_count"),
        ("s.min_query_count = np.float64(5)", ""),
        ("s.min_query_count = 2**64", ""),
        ("s.min_query_count = 2**64 - 1", "s.min_query_count"),
        ("s.min_query_count = None", ""),
        ("s.min_query_count = '5'", ""),
        ("s.server_target_qps = 3", "s.server_target_qps"),
        ("s.server_target_qps = True", "s.server_target_qps"),
        ("s.server_target_qps = np.float32(0.5)", "s.server_target_qps"),
        ("s.server_target_qps = '3'", ""),
        ("s.server_target_qps = None", ""),
        ("s.server_coalesce_queries = 1", "s.server_coalesce_queries"),
        ("s.server_coalesce_queries = None", "s.server_coalesce_queries"),
        ("s.server_coalesce_queries = np.bool_(True)", "s.server_coalesce_queries"),
        ("s.server_coalesce_queries = 'yes'", ""),
        ("s.server_coalesce_queries = [1]", ""),
        ("s.server_find_peak_qps_decimals_of_precision = -3", "s.server_find_peak_qps_decimals_of_precision"),
        ("s.server_find_peak_qps_decimals_of_precision = 2**31", ""),
        ("copy.copy(s)", ""),
        ("pickle.dumps(s)", ""),
        ("lg.TestSettings(1)", ""),
        ("s.FromConfig(1, 'model', 'Server')", ""),
        ("pass", "s.FromConfig('/nowhere/user.conf', 'model', 'Server', 2)"),
        ("pass", "s.FromConfig(path='/nowhere', model='m', scenario='Server', conf_type=2)"),
        ("s.FromConfig('', 'retinanet', 'MultiStream', 0)", "s.multi_stream_expected_latency_ns, s.qsl_rng_seed"),
        ("l.log_output.outdir = 'x'", "l.log_output.outdir"),
        ("o.outdir = 'y'; l.log_output = o; o.outdir = 'z'", "l.log_output.outdir"),
        ("kept = l.log_output; l.log_output = o; kept.outdir = 'q'", "l.log_output.outdir"),
        ("l.log_output.outdir = b'abc'", "l.log_output.outdir"),
        ("l.log_output.outdir = None", ""),
        ("l.log_output.outdir = __import__('pathlib').Path('x')", ""),
        ("l.log_output = 'x'", ""),
        ("l.log_mode = lg.LoggingMode.Synchronous", "l.log_mode"),
        ("l.nothing = 1", ""),
        ("o.nothing = 1", ""),
        ("copy.deepcopy(l)", ""),
    )
]


def outcome(lg: ModuleType, lines: str, after: str = "") -> tuple[str, str]:
    """What became of it, as text: the value and its type, or the kind of the exception."""
    names: dict[str, Any] = {"lg": lg, "S": lg.TestScenario, "M": lg.TestMode, "np": np, "pickle": pickle, "copy": copy}
    names |= {"s": lg.TestSettings(), "l": lg.LogSettings(), "o": lg.LogOutputSettings()}
    try:
        if after:
            exec(lines, names)
            lines = after
        value = eval(lines, names) if after or lines in ENUMERATIONS + SAMPLES else exec(lines, names)
    except Exception as error:
        return "raised", type(error).__name__
    return type(value).__name__, repr(value)


@needs_reference
@pytest.mark.parametrize("line", ENUMERATIONS + SAMPLES)
def test_expressions(line: str, reference: ModuleType) -> None:
    assert outcome(api, line) == outcome(reference, line)


@needs_reference
@pytest.mark.parametrize(("line", "after"), SETTINGS)
def test_settings(line: str, after: str, reference: ModuleType) -> None:
    assert outcome(api, line, after) == outcome(reference, line, after)


@needs_reference
def test_the_module_has_the_same_names(reference: ModuleType) -> None:
    public = {name for name in dir(reference) if not name.startswith("_")}
    assert set(api.__all__) == public == {name for name in dir(api) if name in api.__all__}
    plain = ("TestSettings", "LogSettings", "LogOutputSettings", "QuerySample", "QuerySampleResponse")
    made = [(getattr(api, kind)(), getattr(reference, kind)()) for kind in plain]
    members = [(ours.log_mode, theirs.log_mode) for ours, theirs in made if hasattr(theirs, "log_mode")] + [
        (getattr(made[0][0], name), getattr(made[0][1], name)) for name in ("scenario", "mode")
    ]
    for ours, theirs in (*made, *members):
        named = {name for name in dir(theirs) if not name.startswith("_")}
        assert {name for name in dir(ours) if not name.startswith("_")} == named
    for ours, theirs in made:
        named = {name for name in dir(theirs) if not name.startswith("_")}
        for name in named - {"FromConfig", "log_output"}:
            assert repr(getattr(ours, name)) == repr(getattr(theirs, name)), name


def test_enumerations_keep_to_themselves() -> None:
    assert api.TestScenario.Server != api.TestMode.PerformanceOnly
    assert hash(api.TestScenario.Server) == hash(api.TestMode.PerformanceOnly)
    assert not isinstance(api.TestScenario.Server, int)


@given(st.lists(st.integers(0, 99)), st.data())
def test_a_vector_is_a_list_of_its_kind(ids: list[int], data: st.DataObject) -> None:
    """The reference's own vectors can be made and nothing else: every method of theirs ends in a RecursionError."""
    mirror = [api.QuerySample(number, 0) for number in ids]
    vector = api.VectorQuerySample(mirror)
    for _ in range(5):
        step = data.draw(st.sampled_from(["append", "extend", "insert", "pop", "delete", "set", "slice", "clear"]))
        one = api.QuerySample(data.draw(st.integers(100, 199)), 0)
        at = data.draw(st.integers(0, max(len(mirror) - 1, 0)))
        for target in (mirror, vector):
            if step == "append":
                target.append(one)
            elif step == "extend":
                target.extend([one, one])
            elif step == "insert":
                target.insert(at, one)
            elif step == "clear":
                target.clear()
            elif not target:
                continue
            elif step == "pop":
                target.pop(at)
            elif step == "delete":
                del target[at:]
            elif step == "set":
                target[at] = one
            else:
                assert [sample.id for sample in target[at:]] == [sample.id for sample in mirror[at:]]
    assert [sample.id for sample in vector] == [sample.id for sample in mirror]
    assert (len(vector), bool(vector)) == (len(mirror), bool(mirror))
    assert type(vector[:1]) is api.VectorQuerySample


@pytest.mark.parametrize(
    "wrong", ["v.append(1)", "v.extend([lg.QuerySampleResponse()])", "v[0] = 3", "lg.VectorQuerySample([2])"]
)
def test_a_vector_takes_nothing_else(wrong: str) -> None:
    with pytest.raises(TypeError, match="holds QuerySample"):
        exec(wrong, {"lg": api, "v": api.VectorQuerySample([api.QuerySample()])})


def test_responses_survive_a_pipe() -> None:
    """Which those of the reference do not."""
    response = pickle.loads(pickle.dumps(api.QuerySampleResponse(1, 2, 3, 4)))
    assert (response.id, response.data, response.size, response.n_tokens) == (1, 2, 3, 4)
