"""Requests of different sizes in one batch: a reply is what the model gives for the request alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from drumfire.loadgen.system import Batch
from drumfire.sut import models
from drumfire.sut.data.ragged import Padding
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.kserve.messages.inference import RequestInput
from drumfire.sut.kserve.messages.tensors import pack_bytes, unpack_bytes
from drumfire.sut.local import backends
from drumfire.sut.local.backends import BackendError, BackendOptions
from drumfire.sut.local.followed import Place
from drumfire.sut.local.responses import OutputError
from drumfire.sut.models import minilm
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.batch import gatherers, split
from drumfire.sut.serving.intake import Intake
from drumfire.sut.serving.model import Batching, ServedModel, Source
from drumfire.sut.serving.padding import PaddedBatch, RequestPadding
from drumfire.sut.serving.request import Request
from drumfire.sut.serving.scheduler import Scheduler
from drumfire.sut.serving.shared_memory import SystemRegions
from tests.support.packages import MINILM, need
from tests.support.serving_fakes import Handed, Loop

FILES = Path(__file__).parents[2] / "data" / "onnx"
F4, I8, TEXT = np.dtype(np.float32), np.dtype(np.int64), np.dtype(object)
LONGEST = Padding()
RULES = [LONGEST, Padding.of("16"), Padding.of("buckets:3,8,12")]


def bytes_of(array: np.ndarray) -> bytes:
    return pack_bytes(array.reshape(-1).tolist()) if array.dtype.hasobject else array.tobytes()


@settings(deadline=None)
@given(
    st.data(),
    st.sampled_from([((None,), F4), ((None, 2), I8), ((3, None), F4), ((2, None, None), F4), ((None,), TEXT)]),
    st.sampled_from([None, 8]),
    st.booleans(),
)
def test_gathered_is_padded(data: Any, kind: Any, fixed: int | None, channels_last: bool) -> None:
    """``channels_last``: an image arrives as (channels, height, width)."""
    arrives, dtype = kind
    channels_last = channels_last and len(arrives) == 3
    takes = (*arrives[1:], arrives[0]) if channels_last else arrives
    padding = data.draw(st.sampled_from([None, 7] if dtype != TEXT else [None]))
    one = Input("x", takes, dtype, fixed, padding=padding, channels_moved=channels_last)
    (gatherer,) = gatherers([one], 8)
    filler: Any = b"" if dtype == TEXT else padding or 0
    for _ in range(2):  # the memory is used again
        rng = np.random.default_rng(data.draw(st.integers(0, 9)))
        sizes = st.tuples(*(st.integers(1, 5) if size is None else st.just(size) for size in arrives))
        shapes = data.draw(st.lists(st.tuples(st.integers(1, 2), sizes), min_size=1, max_size=4))
        arrays = [rng.integers(1, 9, (samples, *shape)) for samples, shape in shapes]
        arrays = [one.astype("S").astype(object) if dtype == TEXT else one.astype(dtype) for one in arrays]
        padded = tuple(max(size) + data.draw(st.integers(0, 2)) * (size[0] != 3)
                       for size in zip(*(shape for _, shape in shapes), strict=True))  # fmt: skip
        padded = tuple(size if known is None else known for size, known in zip(padded, arrives, strict=True))
        requests = [Request((bytes_of(one),), len(one), (one.shape[1:],), 0) for one in arrays]
        found = gatherer.gather(requests, padded)
        samples = sum(len(one) for one in arrays)
        assert len(found) == max(fixed or 0, samples)
        wanted = np.full((samples, *padded), filler, dtype)
        at = 0
        for one in arrays:
            wanted[(slice(at, at + len(one)), *map(slice, one.shape[1:]))] = one
            at += len(one)
        found = np.moveaxis(found, -1, 1) if channels_last else found
        np.testing.assert_array_equal(found[:samples], wanted)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=1, max_size=5), st.sampled_from([1, 9000]))
def test_outputs_are_cut_to_each_requests_own_sizes(shapes: list[tuple[int, int]], width: int) -> None:
    """Small ones, and those that are too large to be copied; one that follows nothing; texts."""
    longest, rows = max(size for _, size in shapes), sum(samples for samples, _ in shapes)
    each = np.arange(rows * 2 * longest * width, dtype=np.float32).reshape(rows, 2, longest, width)
    total, words = np.arange(rows), each[:, 0, :, 0].astype("S").astype(object)
    requests = [Request((b"",), samples, ((size,),), 0) for samples, size in shapes]
    follows = [{1: Place(0, 0)}, {}, {0: Place(0, 0)}]
    padded = PaddedBatch(((longest,),), follows)
    split([each, total, words], requests, [], rows, ("each", "total", "words"), padded)
    first = 0
    for request, (samples, size) in zip(requests, shapes, strict=True):
        own = slice(first, first + samples)
        assert request.tails == [(2, size, width), (), (size,)]
        assert bytes(request.contents[0]) == each[own, :, :size].tobytes()
        assert bytes(request.contents[1]) == total[own].tobytes()
        assert list(unpack_bytes(request.contents[2])) == words[own, :size].reshape(-1).tolist()
        first += samples


@pytest.mark.parametrize("shape", [(2, 4), (2,)])
def test_an_output_that_does_not_follow_after_all_is_told(shape: tuple[int, ...]) -> None:
    requests = [Request((b"",), 1, ((size,),), 0) for size in (2, 5)]
    padded = PaddedBatch(((5,),), [{0: Place(0, 0)}])
    with pytest.raises(OutputError, match=r"output 'y' has the shape .* for inputs padded to \[5\]"):
        split([np.zeros(shape, np.float32)], requests, [], 2, ("y",), padded)


def request_of(*shapes: Any) -> Request:
    return Request((b"",) * len(shapes), 1, shapes, 0)


def test_which_requests_share_a_batch_and_how_large_it_is() -> None:
    padding = RequestPadding(LONGEST, {0: [0], 2: [1, 2]}, [])
    assert padding.alike(((5,), (4,), (3, 7, 9))) == padding.alike(((6,), (4,), (3, 1, 2)))
    assert padding.alike(((5,), (4,), None)) != padding.alike(((5,), (4,), (3, 7, 9)))
    assert padding.alike(((5,), (3,), None)) != padding.alike(((5,), (4,), None))
    assert padding.alike(((0,), (4,), None)) != padding.alike(((5,), (4,), None))  # an empty one stays alone
    assert padding.size(((5,), (4,), (3, 7, 9))) == 63
    assert padding.size(((5,), (4,), None)) == 5
    one, other = request_of((5,), (4,), (3, 2, 9)), request_of((2,), (4,), (3, 7, 3))
    batch = padding.of([one, other])
    assert batch is not None
    assert batch.shapes == ((5,), (4,), (3, 7, 9))
    assert padding.of([one, one]) is None
    assert padding.of([one]) is None


def test_sizes_that_the_user_names() -> None:
    padding = RequestPadding(Padding.of("buckets:8,16"), {1: [0]}, [])
    batch = padding.of([request_of(None, (3,)), request_of(None, (9,))])
    assert batch is not None
    assert batch.shapes == (None, (16,))
    assert padding.of([request_of(None, (8,))]) is None
    assert padding.computed_size(request_of(None, (3,))) == 8
    assert (padding.too_large(((99,), (16,))), padding.too_large(((99,), (17,)))) == (None, 1)


def load(name: str, padding: Padding | None = None) -> ServedModel:
    pytest.importorskip("onnxruntime")
    source = Source(name, "1", FILES / f"{name}.onnx", None)
    batching = Batching(8, padding=padding)
    return serving.load(source, "onnxruntime", "cpu", threads=1, options=BackendOptions(), batching=batching)


@pytest.fixture(scope="module")
def masked() -> list[ServedModel]:
    return [load("masked_text", rule) for rule in RULES]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([0, 1, 2]), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12), st.booleans()),
                                            min_size=1, max_size=5), st.integers(0, 99))  # fmt: skip
def test_replies_do_not_depend_on_what_is_beside_them(
    masked: list[ServedModel], tmp_path: Path, which: int, asked: list[tuple[int, int, bool]], seed: int
) -> None:
    """Bit for bit, for any mix of lengths, samples and places of the inputs."""
    model, rng = masked[which], np.random.default_rng(seed)
    own = gatherers(model.takes, 8)
    assert model.padding is not None
    regions = SystemRegions(tmp_path)

    def compute(requests: list[Request]) -> None:
        assert model.padding is not None
        padded = model.padding.of(requests)
        batch = {one.name: one.gather(requests, padded and padded.shapes[one.position]) for one in own}
        rows = sum(request.samples for request in requests)
        split(model.instances[0].run(batch), requests, own, rows, ("hidden", "total"), padded)

    requests = []
    for number, (samples, length, is_shared) in enumerate(asked):
        ids = rng.integers(0, 100, (samples, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (samples, 1))).astype(np.int64)
        data: list[Any] = [ids.tobytes(), mask.tobytes()]
        if is_shared:
            (tmp_path / f"key{number}").write_bytes(data[0])
            regions.unregister(f"r{number}")
            regions.register(f"r{number}", f"key{number}", 0, len(data[0]))
            data[0] = regions.place(Region(f"r{number}", 0, len(data[0])))
        requests.append(Request(data, samples, ((length,), (length,)), 0, is_shared=is_shared))
    compute(requests)
    together = [([*map(bytes, one.contents)], one.tails) for one in requests]
    for request, found, (samples, length, _) in zip(requests, together, asked, strict=True):
        compute([request])
        assert found == ([*map(bytes, request.contents)], request.tails)
        assert request.tails == [(length, 8), ()]
        assert len(request.contents[0]) == 4 * samples * length * 8


class Told:
    """A backend that computes as told."""

    description = "told"

    def __init__(self, compute: Any, *takes: Input) -> None:
        self.compute = compute
        self.tensors = Tensors(takes, ("y",))

    def run(self, batch: Batch) -> list[np.ndarray]:
        return [self.compute(*batch.values())]

    def close(self) -> None:
        pass


X, Z = Input("x", (None,), F4, dims=("s",)), Input("z", (None,), F4, dims=("t",))
IMAGE = Input("x", (3, None, None), F4)
UNNAMED = [Input(name, (None,), F4) for name in "xz"]


def multiple_of_8(x: np.ndarray) -> np.ndarray:
    if x.shape[1] % 8:
        raise RuntimeError("not a multiple of 8")
    return x


@pytest.mark.parametrize(
    ("compute", "takes", "follows"),
    [
        (lambda x: x, [X], {0: Place(0, 0)}),
        (lambda x: x[:, None, :, None], [X], {1: Place(0, 0)}),
        (lambda x: x.sum(axis=1), [X], {}),
        (lambda x: x[:, :8], [X], {}),
        (multiple_of_8, [X], {0: Place(0, 0)}),
        (lambda x, z: x[:, :, None] + z[:, None], [X, Z], {0: Place(0, 0), 1: Place(1, 0)}),
        (lambda x, z: z[:, :, None] + x[:, None], [X, Z], {0: Place(1, 0), 1: Place(0, 0)}),
        (lambda x, z: x + z, UNNAMED, {0: Place(0, 0)}),  # which must agree
        (lambda x: x[:, 0], [IMAGE], {0: Place(0, 1), 1: Place(0, 2)}),
    ],
)
def test_which_sizes_of_inputs_an_output_has(
    compute: Any, takes: list[Input], follows: dict[int, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "load", lambda *_: Told(compute, *takes))
    padding = load("m", LONGEST).padding
    assert padding is not None
    sizes = [(20, 24), (40, 48), (60, 64)]
    found = padding.of([request_of(*(size if one is IMAGE else size[:1] for one in takes)) for size in
                        ([(3, *one) for one in sizes] if takes == [IMAGE] else sizes)])  # fmt: skip
    assert found is not None
    assert [*found.follows] == [follows]


@pytest.mark.parametrize("compute", [lambda x: x[:, ::2], lambda x: np.concatenate([x, x[:, :1]], 1)])
def test_an_answer_that_cannot_be_cut_back_is_not_padded(compute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load", lambda *_: Told(compute, X))
    assert load("m").padding is None
    with pytest.raises(BackendError, match=r"^--pad longest: the model's output 'y' has a size that depends") as error:
        load("m", LONGEST)
    assert "\n" not in str(error.value)


def test_a_file_is_padded_only_if_the_user_says_so() -> None:
    assert load("masked_text").padding is None
    padded = load("masked_text", Padding.of("buckets:8,16"))
    assert padded.padding is not None
    assert padded.description.endswith(", requests padded to buckets:8,16")
    assert [str(one) for one in padded.interface.outputs] == ["hidden FP32[-1,8]", "total INT64[]"]


@pytest.mark.parametrize(
    ("name", "changes"), [("masked_text", False), ("two_inputs", False), ("text_length", True), ("open_image", True)]
)
def test_padding_that_changes_answers_is_told(name: str, changes: bool) -> None:
    """A mean over a text without a mask, and over an image."""
    assert ("which changes its answers" in load(name, LONGEST).description) is changes


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("bool", LONGEST, "--pad longest: bool takes samples of one size: leave it out"),
        ("open_image", Padding.of("64"), "--pad 64: image has several open sizes, so only --pad longest is clear"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(name: str, rule: Padding, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load(name, rule)


def test_images_arrive_otherwise_than_the_model_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Input("x", (None, None, 3), F4, channels_moved=True)
    monkeypatch.setattr(backends, "load", lambda *_: Told(lambda x: x.sum(axis=3), takes))
    model = load("m", LONGEST)
    assert model.padding is not None
    small, large = request_of((3, 4, 9)), request_of((3, 6, 7))
    padded = model.padding.of([small, large])
    assert padded is not None
    assert padded.shapes == ((3, 6, 9),)
    assert padded.follows == [{0: Place(0, 1), 1: Place(0, 2)}]


@pytest.mark.extra
def test_a_sentence_gets_what_it_gets_alone(tmp_path: Path) -> None:
    """From minilm's real weights, whose sums depend on the length in their last bits."""
    need(*MINILM)
    model = models.get("minilm")
    source = Source("minilm", "1", model.weights(tmp_path), model)
    served = serving.load(source, "onnxruntime", "cpu", threads=1, options=BackendOptions(), batching=Batching(8))
    assert served.padding is not None
    assert [str(one) for one in served.interface.outputs] == [
        "last_hidden_state FP32[-1,384]",
        "sentence_embedding FP32[384]",
    ]
    data = minilm.MiniLM().inputs(np.array([0, 5, 8, 33]))
    own = gatherers(served.takes, 8)
    lengths = data["input_ids"].shapes[:, 0].tolist()
    assert len(set(lengths)) > 2
    requests = [
        Request([data[one.name].sample(row).tobytes() for one in own], 1, ((length,),) * 3, 0)
        for row, length in enumerate(lengths)
    ]
    answers = []
    for together in (requests, *([one] for one in requests)):
        padded = served.padding.of(together)
        batch = {one.name: one.gather(together, padded and padded.shapes[one.position]) for one in own}
        split(served.instances[0].run(batch), together, own, len(together), ("h", "e"), padded)
        answers += [[np.frombuffer(content, np.float32) for content in one.contents] for one in together]
    for found, alone, length in zip(answers, answers[4:], lengths, strict=False):
        assert [one.size for one in found] == [length * 384, 384]
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_turns_out_not_to_follow_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the 16 largest of each sample, which are all of them in the sizes that were tried."""
    monkeypatch.setattr(backends, "load", lambda *_: Told(lambda x: x[:, :16], X))
    handed, loop = Handed(), Loop()
    model = replace(load("m", LONGEST), inline=True)
    scheduler = Scheduler(model, handed, loop, most_requests=9, most_bytes=1 << 20)
    intake = Intake(model)
    arrays = [np.arange(length, dtype=np.float32)[None] for length in (20, 18, 21)]
    for one in arrays:
        data, samples, shapes, size, _, alike = intake.take(
            [RequestInput("x", "FP32", one.shape, one.tobytes())], SystemRegions()
        )
        scheduler.submit(Request(data, samples, shapes, 0, size=size, alike=alike))
    loop.turn()
    found = sorted(handed.requests, key=lambda one: one.shapes)
    assert [one.tails for one in found] == [[(16,)]] * 3
    assert all(bytes(one.contents[0]) == arrays[0][:, :16].tobytes() for one in found)
    assert scheduler.statistics.padding == 0  # nothing of what was computed in the end
