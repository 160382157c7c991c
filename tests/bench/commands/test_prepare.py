"""drumfire prepare: data drawn and checked, weights fetched; and runs on what was prepared say what they stand on."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest

from drumfire.sut.local import backends
from drumfire.sut.models import digits
from drumfire.sut.models.file import FileModel
from tests.support.command import ROOT, SCHEMA, here, one_line_error


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ``tmp_path``, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A server of one file, weights.onnx."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "weights.onnx").write_bytes(b"not really a network" * 1000)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/weights.onnx"
        server.shutdown()
        thread.join()


def test_weights_are_fetched_to_where_runs_look(tmp_path: Path, mirror: str) -> None:
    done = here("prepare", "weights", "resnet50", "--url", mirror)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(b"not really a network" * 1000).hexdigest()
    path = tmp_path / "cache" / "resnet50_v1.onnx"
    assert f"{path}: SHA-256 {digest}" in done.stdout
    assert path.with_name("resnet50_v1.onnx.sha256").read_text() == f"{digest}  resnet50_v1.onnx\n"
    run = ["run", "onnxruntime", "resnet50", "cpu", "--scenario", "Offline", "--time", "1", "--no-dashboard"]
    one_line_error(here(*run), "onnxruntime cannot load", "resnet50_v1.onnx")
    path.write_bytes(b"changed")
    one_line_error(here(*run), "resnet50_v1.onnx has SHA-256", digest)


def test_weights_that_can_not_be_had(tmp_path: Path, mirror: str) -> None:
    done = here("prepare", "weights", "resnet50", "--url", mirror + "x")
    assert done.returncode == 2
    assert "404" in done.stderr
    one_line_error(here("prepare", "weights", "digits"), "digits comes with its weights")
    one_line_error(
        here("prepare", "weights", "yolo11l"), "are not published as a file: give your own to a run with --w"
    )
    one_line_error(here("prepare", "weights", "resnet51"), "is not known")
    one_line_error(here("prepare", "weights", "resnet50", "--file", "x"), "resnet50_v1.onnx, resnet50-19c8e357.pth")


def test_shapes_on_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    run = ["run", "onnxruntime", "shapes", "cpu", "--json", "--no-dashboard"]
    found = {}
    for scenario in ("Offline", "Server"):
        more = ["--qps", "100"] if scenario == "Server" else []
        done = here(*run, "--scenario", scenario, "--accuracy", *more, "--output", tmp_path / scenario)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(done.stdout)
        jsonschema.validate(result, SCHEMA)
        assert result["system"]["reservations"] == []
        accuracy = found[scenario] = result["accuracy"]
        assert (accuracy["metric"], accuracy["good"], accuracy["total"], accuracy["expected"]) == (
            "mAP",
            None,
            200,
            200,
        )
        *table, score = (tmp_path / scenario / "accuracy.txt").read_text().splitlines()
        assert len(table) == 12
        assert table[0].startswith("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] =")
        assert score == f"mAP={accuracy['value']:.3%}"
        for record in json.loads((tmp_path / scenario / "mlperf_log_accuracy.json").read_text()):
            rows = np.frombuffer(bytes.fromhex(record["data"]), "<f4").reshape(-1, 7)
            assert set(rows[:, 0].tolist()) <= {record["qsl_idx"]}
    assert found["Server"]["value"] == pytest.approx(found["Offline"]["value"], abs=0.002)
    done = here("run", "onnxruntime", "shapes", "--scenario", "Offline", "--accuracy", "--count", "50")
    assert "mAP=" in done.stdout
    assert "50 samples" in done.stdout


@pytest.mark.extra
def test_int8_beside_fp32(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    done = here("prepare", "quantize", "digits", "--output", "int8.onnx")
    assert done.returncode == 0, done.stderr
    heading, size, accuracy, *speeds, how = [line for line in done.stdout.splitlines() if line.strip()]
    assert heading.split() == ["digits", "fp32", "int8"]
    assert size.split()[0] == "file"
    assert accuracy.startswith("top-1 of 500 samples")
    before, after = (float(share.rstrip("%")) for share in accuracy.split()[-2:])
    assert before == 99.6
    assert after >= 98
    assert [line.split()[:4] for line in speeds] == [["samples/s,", "batches", "of", size] for size in ("1", "32")]
    assert how == "to run it: drumfire run onnxruntime digits cpu --weights int8.onnx"
    run = ["run", "onnxruntime", "digits", "--scenario", "Offline", "--accuracy", "--weights", "int8.onnx", "--json"]
    result = json.loads(here(*run).stdout)
    assert round(result["accuracy"]["value"] * 100, 2) == after
    # In the cache it is made once.
    for _ in range(2):
        assert here("prepare", "quantize", "digits", "--count", "32").returncode == 0
    assert len(list((tmp_path / "cache").glob("digits-int8-*.onnx"))) == 1


@pytest.mark.extra
@pytest.mark.extra
def test_int8_of_a_file_is_judged_by_labels(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    backend, model = backends.load("onnxruntime", digits.WEIGHTS, "cpu", 1), FileModel(digits.WEIGHTS)
    model.learn(backend)
    library = model.library(count=64)
    library.load(np.arange(64))
    classes = backend.run(dict(library.batch(np.arange(64))))[0].argmax(1)
    classes[:16] = (classes[:16] + 1) % 10
    np.save(tmp_path / "labels.npy", classes)
    words = "prepare", "quantize", digits.WEIGHTS, "--labels", tmp_path / "labels.npy", "--count", "64"
    done = here(*words, "--quality", "0.9", "--output", tmp_path / "int8.onnx")
    assert done.returncode == 0, done.stderr
    (accuracy,) = [line for line in done.stdout.splitlines() if line.startswith("top-1 of 64 samples")]
    assert accuracy.split()[-2] == "75.00%"
    assert "int8 is below the target of 90.00%" in done.stdout
    assert f"to run it: drumfire run onnxruntime {tmp_path / 'int8.onnx'}" in done.stdout


def test_a_file_without_labels_is_not_quantized(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(3, int))
    labels = "--labels", tmp_path / "labels.npy"
    quantize = "prepare", "quantize"
    one_line_error(here(*quantize, digits.WEIGHTS), "compared by labels of its samples: give them with --labels")
    one_line_error(here(*quantize, digits.WEIGHTS, *labels, "--weights", digits.WEIGHTS), "leave --weights out")
    one_line_error(here(*quantize, digits.WEIGHTS, *labels), "has 3 labels for")
    one_line_error(here(*quantize, "digits", *labels), "digits is judged by labels of its own: leave --labels out")
    one_line_error(here(*quantize, "none.onnx", *labels), "none.onnx", "no such file")


def test_what_can_not_be_quantized(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    one_line_error(here("prepare", "quantize", "digit"), "'digit' is not known")
    one_line_error(here("prepare", "quantize", "digits", "--weights", "a.pt2"), "a.pt2 is not an ONNX file")
    one_line_error(here("prepare", "quantize", "digits", "--count", "501"), "must be 1 to 500, not 501")
    (tmp_path / "text.onnx").write_text("no network")
    quantize = ["prepare", "quantize", "digits", "--output", "int8.onnx", "--weights"]
    one_line_error(here(*quantize, "text.onnx"), "cannot quantize text.onnx")
    one_line_error(here(*quantize, "none.onnx"), "none.onnx")


@pytest.mark.extra
class TestPictures:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        for package in ("cv2", "PIL", "pycocotools", "torch", "onnxscript"):
            pytest.importorskip(package)

    @pytest.mark.parametrize("kind", ["imagenet", "coco", "openimages"])
    def test_fake_data_is_whole(self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        done = here("prepare", "fake", kind, "--count", "9")
        assert done.returncode == 0, done.stderr
        folder = tmp_path / f"fake_{kind}"
        assert done.stdout == f"9 pictures are in fake_{kind}: export DATA_DIR={folder}\n"
        with monkeypatch.context() as patched:
            patched.setenv("DATA_DIR", str(folder))
            checked = here("prepare", "check", kind)
        assert checked.returncode == 0, checked.stderr
        assert "9 pictures" in checked.stdout
        assert "the real set has" in checked.stdout
        next(folder.rglob("*.jpg")).unlink()
        one_line_error(here("prepare", "check", kind, "--dataset-path", folder), "1 of the 9 pictures", "missing")
        one_line_error(here("prepare", "fake", kind), "exists already")
        one_line_error(here("prepare", "check", kind), "set DATA_DIR")

    def test_a_run_from_nothing_tells_what_it_stands_on(self, tmp_path: Path) -> None:
        run = ["run", "onnxruntime", "mobilenet", "cpu", "--scenario", "Offline", "--count", "16", "--time", "1"]
        done = here(*run, "--json", "--no-dashboard", "--output", "out")
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(done.stdout)
        jsonschema.validate(result, SCHEMA)
        told = result["system"]["reservations"]
        assert told[0] == "synthetic weights: speed only, accuracy not meaningful"
        assert "generated pictures" in told[1]
        for text in told:
            assert f"note: {text}" in done.stderr
        again = here(*run, "--accuracy", "--output", "again")
        assert again.returncode == 1
        assert "synthetic weights: speed only" in again.stdout
        assert "below the target" in again.stdout

    def test_int8_of_random_weights_says_so(self, tmp_path: Path) -> None:
        quantize = ["prepare", "quantize", "mobilenet", "--count", "8", "--calibration-count", "8"]
        one_line_error(here(*quantize, "--output", "int8.onnx"), "put 'synthetic' in the name")
        done = here(*quantize)
        assert done.returncode == 0, done.stderr
        assert "note: synthetic weights: speed only, accuracy not meaningful" in done.stdout
        assert "note: calibrated on 8 of the samples that will judge it" in done.stdout
        (made,) = (tmp_path / "cache").glob("mobilenet-synthetic-*-int8-*.onnx")
        assert f"drumfire run onnxruntime mobilenet cpu --weights {made}" in done.stdout
        run = ["run", "onnxruntime", "mobilenet", "--scenario", "Offline", "--count", "8", "--time", "1", "--json"]
        result = json.loads(here(*run, "--weights", made, "--no-dashboard").stdout)
        assert "synthetic weights: speed only, accuracy not meaningful" in result["system"]["reservations"]

    def test_a_state_dict_with_pictures_of_its_own_is_not_quantized(self, tmp_path: Path) -> None:
        import torch

        from drumfire.sut.models.resnet50 import ResNet50

        torch.save(ResNet50().network(None).state_dict(), tmp_path / "resnet50.pth")
        done = here("prepare", "quantize", "resnet50", "--weights", "resnet50.pth")
        one_line_error(done, "resnet50's state dict needs other preprocessing")

    def test_broken_pictures_stop_the_run(self, tmp_path: Path) -> None:
        here("prepare", "fake", "imagenet", "--count", "9")
        broken = tmp_path / "fake_imagenet" / "val" / "fake_00000003.jpg"
        broken.write_bytes(broken.read_bytes()[:-100])
        run = ["run", "onnxruntime", "mobilenet", "cpu", "--scenario", "Offline", "--time", "1", "--no-dashboard"]
        done = here(*run, "--dataset-path", "fake_imagenet")
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.strip().split("\n")[-1].startswith("drumfire: cannot read 1 of 9 pictures")
        assert "fake_00000003.jpg (the JPEG is truncated)" in done.stderr

    def test_a_file_of_another_layout(self, tmp_path: Path) -> None:
        run = ["run", "onnxruntime", "mobilenet", "cpu", "--scenario", "Offline", "--time", "1", "--no-dashboard"]
        digits = ROOT / "sut" / "models" / "data" / "digits.onnx"
        assert onnxruntime.InferenceSession(digits).get_inputs()[0].shape[1:] == [1, 8, 8]
        done = here(*run, "--weights", digits)
        one_line_error(done, "the file takes float32 of shape [1, 8, 8]", "float32 of shape [3, 224, 224]", "--weights")


def test_the_check_of_annotations_names_annotation_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / "d/annotations/instances_val2017.json"
    file.parent.mkdir(parents=True)
    (tmp_path / "d/val2017").mkdir()
    (tmp_path / "d/val2017/1.jpg").touch()
    annotation = {"id": 5, "image_id": 1, "category_id": 90, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    found = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 4}],
        "annotations": [annotation],
        "categories": [{"id": 90}],
    }
    file.write_text(json.dumps(found))
    done = here("prepare", "check", "coco", "--dataset-path", "d")
    assert (done.returncode, done.stdout) == (0, "d holds 1 pictures with 1 annotations (the real set has 5,000)\n")
    for key, value in (("iscrowd", float("nan")), ("bbox", [0, 0, -2, 2]), ("image_id", "1")):
        file.write_text(json.dumps(found | {"annotations": [annotation | {key: value}]}))
        one_line_error(
            here("prepare", "check", "coco", "--dataset-path", "d"),
            f"{file.relative_to(tmp_path)}: annotation 5: {key} is {value!r}, must be ",
            "correct it, or fetch the file again",
        )
