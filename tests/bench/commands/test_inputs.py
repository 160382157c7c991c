"""Models by what they take: any name for one input, and one sentence for several, whatever the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import here, one_line_error
from tests.support.onnx_file import write_sum
from tests.support.served import PORTS, serving

pytest.importorskip("onnxruntime")

FILES = Path(__file__).parents[2] / "data" / "onnx"
QUICK = ["--scenario", "SingleStream", "--time", "0.05", "--count", "20", "--json", "--no-dashboard"]


def test_a_file_of_other_inputs_than_its_model_has_is_not_run(tmp_path: Path) -> None:
    file = write_sum(tmp_path / "text.onnx", ["input_ids", "attention_mask"])
    one_line_error(
        here("run", "onnxruntime", "digits", "--weights", file, "--scenario", "SingleStream", "--no-dashboard"),
        "the file takes input_ids float32 of shape [2], attention_mask",
        "digits's data is float32 of shape [1, 8, 8]: give another file with --weights",
    )


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("two_inputs", ["--dim", "sequence=128"], "input_ids 0..99, attention_mask ones, sequence 128"),
        ("two_inputs", ["--dim", "sequence=8..16"], "sequence 8..16"),
        ("two_inputs", ["--shape", "input_ids=8", "--range", "input_ids=0..7"], "input_ids 0..7, attention_mask ones"),
        ("optional_input", ["--dim", "sequence=8"], "attention_mask ones, sequence 8"),
        ("optional_input", ["--dim", "sequence=8", "--shape", "bias=8"], "attention_mask ones, sequence 8"),
        ("open_image", ["--shape", "image=3x32..64x32"], "height 32..64, width 32"),
        ("open_image", ["--input", "image:3,32,32"], "128 random samples, seed 1"),
        ("text_length", ["--input-data", "zero", "--dim", "sequence=3"], "128 samples of zeros: sequence 3"),
        *((name, [], "128 random") for name in ("bool", "string", "bfloat16", "float16", "uint8", "state")),
        *((name, [], "128 random") for name in ("several_outputs", "scalar_output", "output_without_batch")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value[:20],
)
def test_files_of_every_kind_run_and_say_what_was_made_up(
    file: str, options: list[str], said: str, tmp_path: Path
) -> None:
    done = here("run", "onnxruntime", FILES / f"{file}.onnx", *options, *QUICK, "--output", tmp_path / "run")
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["errors"]["failed"] == 0
    reservations = result["system"]["reservations"]
    assert said in reservations[0]
    assert any("left out" in one for one in reservations) == (file == "optional_input" and "--shape" not in options)


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        ("two_inputs", [], "input_ids INT64[sequence] has open sizes: set them with --dim sequence=128, or give"),
        ("open_image", [], "set them with --dim height=224 --dim width=224, or give --input-data"),
        (
            "two_inputs",
            ["--dim", "batch=2", "--dim", "sequence=4"],
            "--dim batch: this is the batch of the model, whose",
        ),
        (
            "open_image",
            ["--dim", "N=2", "--dim", "height=8", "--dim", "width=8"],
            "whose size --max-batchsize gives: leave it out",
        ),
        ("state", ["--dim", "N=2"], "--dim N: this is the batch of the model, whose size --max-batchsize gives"),
        ("two_inputs", ["--dim", "length=3"], "the model has the open sizes sequence, and batch for its batch"),
        ("two_inputs", ["--dim", "Sequence=3"], "did you mean sequence?"),
        (
            "two_inputs",
            ["--dim", "sequence=8", "--range", "input_ids=0..100"],
            "--range input_ids=0..100: the model looks input_ids up in a table of the rows 0..99",
        ),
        (
            "two_inputs",
            ["--dim", "sequence=8", "--range", "input_ids=-101..99"],
            "--range input_ids=-101..99: the model looks input_ids up in a table of the rows 0..99",
        ),
        ("uint8", ["--input-data", "digits"], "digits has samples of float32 [1,8,8], but the model takes x UINT8[4]"),
        ("uint8", ["--dataset-path", "."], "give other data with --input-data"),
        ("uint8", ["--dim", "sequence"], "--dim 'sequence': it has no name: use NAME=SIZE"),
        ("uint8", ["--range", "x=0..256"], "UINT8 has values from 0 to 255"),
        ("bfloat16", ["--range", "x=0..1e39"], "BF16 has values from -3.38953e+38 to 3.38953e+38"),
    ],
)
def test_inputs_that_a_file_does_not_take(file: str, options: list[str], says: str) -> None:
    one_line_error(here("run", "onnxruntime", FILES / f"{file}.onnx", *options, *QUICK), says)


def test_a_named_model_has_data_of_its_own() -> None:
    done = here("run", "onnxruntime", "digits", "--dim", "sequence=8", *QUICK)
    one_line_error(done, "--dim has no effect with digits, which has data of its own")


def test_samples_of_the_user_reach_the_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input_ids=np.array([[1, 2, 3]]), attention_mask=np.array([[1, 1, 0]]))
    words = ["run", "onnxruntime", FILES / "two_inputs.onnx", *QUICK]
    done = here(*words, "--input-data", tmp_path / "data.npz", "--output", tmp_path / "run")
    assert f"1 sample in 2 arrays of {tmp_path / 'data.npz'}" in json.loads(done.stdout)["system"]["reservations"][0]
    (tmp_path / "cut.jsonl").write_text('{"input_ids": [1], "attention_mask": [1]}\n{"input_ids": [1, 2')
    one_line_error(here(*words, "--input-data", tmp_path / "cut.jsonl"), "cut.jsonl: line 2 is not JSON")
    (tmp_path / "wrong.jsonl").write_text('{"input_ids": [1], "attention_mask": [1]}\n' * 2)
    with (tmp_path / "wrong.jsonl").open("a") as file:
        file.write('{"input_ids": [100], "attention_mask": [1]}\n')
    wrong = here(*words, "--input-data", tmp_path / "wrong.jsonl", "--output", tmp_path / "run2")
    assert wrong.returncode == 2
    told = "wrong.jsonl: line 3: input_ids has the value 100, and the model looks it up in a table of the rows 0..99\n"
    assert wrong.stderr.endswith(told)


def texts(folder: Path, *lengths: int) -> Path:
    """A file of samples for the network ``two_inputs``."""
    samples = [{"input_ids": [*range(1, length + 1)], "attention_mask": [1] * length} for length in lengths]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, samples)))
    return folder / "texts.jsonl"


def test_shorter_samples_are_padded_to_the_one_size_that_a_file_takes(tmp_path: Path) -> None:
    file = (FILES / "two_inputs.onnx").read_bytes()
    sixteen = b"\x08\x90" + 7 * b"\x80" + b"\0"  # a number as long as the name
    (tmp_path / "fixed.onnx").write_bytes(file.replace(b"\x12\x08sequence", sixteen))
    words = ["run", "onnxruntime", tmp_path / "fixed.onnx", "--input-data", texts(tmp_path, 9, 3, 12), *QUICK]
    advice = "line 1 input_ids: the shape [9] does not fit input_ids INT64[16] (--pad 16 pads shorter samples)"
    one_line_error(here(*words), advice)
    one_line_error(here(*words, "--pad", "11"), advice)
    one_line_error(here(*words, "--pad", "longest"), advice)
    done = here(*words, "--pad", "16", "--output", tmp_path / "run")
    result = json.loads(done.stdout)
    assert result["errors"]["failed"] == 0
    sizes = result["system"]["sizes"]
    assert result["system"]["reservations"][1].startswith("padded with 0: answers depend on the padding unless")
    assert (sizes["least"], sizes["most"], sizes["padding"]) == (3, 12, pytest.approx(1 - sizes["mean"] / 16))


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        (
            "two_inputs",
            [],
            ["samples of 3 sizes: only those of equal size share a batch (--pad longest pads them with 0)"],
        ),
        (
            "two_inputs",
            ["--count", "2"],
            ["samples of 2 sizes: only those of equal size share a batch (--pad longest "],
        ),
        ("two_inputs", ["--max-batchsize", "1"], []),
        ("two_inputs", ["--pad", "longest"], []),
        ("two_inputs", ["--pad", "16"], []),
        (
            "text_length",
            ["--pad", "longest"],
            ["change with padding: sample 1, of size 3, is answered otherwise when padded with 0 to 12 "],
        ),
        (
            "text_length",
            ["--pad", "20"],
            ["change with padding: sample 1, of size 3, is answered otherwise when padded with 0 to 20 "],
        ),
    ],
)
def test_a_result_says_how_a_file_s_samples_of_several_sizes_share_batches(
    file: str, options: list[str], says: list[str], tmp_path: Path
) -> None:
    data = texts(tmp_path, 9, 3, 12)
    if file == "text_length":
        data.write_text(
            "\n".join(json.dumps({"ids": json.loads(line)["input_ids"]}) for line in data.read_text().splitlines())
        )
    words = ["run", "onnxruntime", FILES / f"{file}.onnx", "--input-data", data, *QUICK, *options]
    _, *found = json.loads(here(*words, "--output", tmp_path / "run").stdout)["system"]["reservations"]
    assert len(found) == len(says)
    assert all(text in line for text, line in zip(says, found, strict=True))


def test_a_file_of_other_inputs_than_its_model_has_is_not_served(tmp_path: Path) -> None:
    file = write_sum(tmp_path / "text.onnx", ["input_ids", "attention_mask"])
    done = here("serve", "onnxruntime", f"digits={file}", *PORTS)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"drumfire: {file} takes input_ids float32 of shape [2], attention_mask"
    )
    assert done.stderr.endswith("digits's data is float32 of shape [1, 8, 8]: serve the file under another name\n")


@pytest.mark.parametrize("models", [["digits"], ["a=m.onnx", "b=m.onnx"]])
def test_sizes_are_those_of_one_served_file(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sum(tmp_path / "m.onnx", ["x"])
    done = here("serve", "onnxruntime", *models, "--dim", "sequence=8", *PORTS)
    one_line_error(done, "--dim: these are sizes of one model's file: serve it alone, under a name of its own")


def test_a_single_input_of_any_name_is_run_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sum(tmp_path / "pair.onnx", ["pair:0"], "sum:0")
    words = ["--scenario", "SingleStream", "--time", "0.1", "--json", "--no-dashboard"]
    done = here("run", "onnxruntime", "pair.onnx", *words, "--output", "here")
    assert json.loads(done.stdout)["errors"]["failed"] == 0
    with serving("onnxruntime", f"pair={tmp_path / 'pair.onnx'}") as one:
        (tmp_path / "data").mkdir()
        pairs = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.save(tmp_path / "data" / "pair:0.npy", pairs)
        np.save(tmp_path / "data" / "sum:0.npy", pairs)
        there = ["--url", one.ready["grpc"], "--input-data", "data", "--output", "there"]
        done = here("run", "triton", "pair", *there, *words)
        assert json.loads(done.stdout)["errors"]["failed"] == 0, done.stdout
        one.end()


SCALAR = (
    b'\x08\x08:K\n#\n\x01x\x12\x01y"\nReduceMean*\x0f\n\x08keepdims\x18\x00\xa0\x01\x02\x12\x01gZ\x14\n\x01x\x12\x0f\n\r'
    b"\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x10b\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00B\x04\n\x00\x10\x11"
)
"""An ONNX file with ``y = ReduceMean(x, keepdims=0)`` of x (N, 16): one number for the whole batch."""
OF_ONE = (
    SCALAR.replace(b"keepdims\x18\x00", b"keepdims\x18\x01")
    .replace(b":K", b":S")
    .replace(
        b"b\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00",
        b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01",
    )
)
"""The same with ``keepdims=1``: its output (1, 1) looks like that of a batch of one."""


@pytest.mark.parametrize("content", [SCALAR, OF_ONE])
def test_outputs_without_a_batch_mean_batches_of_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    result = json.loads(here("run", "onnxruntime", tmp_path / "m.onnx", *QUICK, "--output", tmp_path / "run").stdout)
    assert result["errors"]["failed"] == 0
    assert result["system"]["max_batch_size"] == 1
    assert "an output has no batch, so each batch is one sample" in result["system"]["reservations"]


@pytest.mark.parametrize("content", [SCALAR, OF_ONE])
def test_the_batch_may_be_a_size_of_the_sample_where_an_output_has_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    done = here("run", "onnxruntime", tmp_path / "m.onnx", "--dim", "N=4", *QUICK, "--output", tmp_path / "run")
    result = json.loads(done.stdout)
    assert result["errors"]["failed"] == 0
    assert any("samples a second count it as one" in text for text in result["system"]["reservations"])


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pipe, "it is a pipe, not a file"),
        (Path.touch, "it is empty"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: None, "there is no such file"),
    ],
)
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["run", "onnxruntime", "m.onnx"], "the model file m.onnx"),
        (["run", "onnxruntime", "digits", "--weights", "m.onnx"], "the model file m.onnx"),
        (["run", "onnxruntime", "resnet50", "--weights", "m.onnx"], "the model file m.onnx"),
        (["serve", "onnxruntime", "digits=m.onnx", *PORTS], "the model file m.onnx"),
        (["run", "null", "digits", "--user-conf", "m.onnx"], "config file m.onnx"),
        (["run", "null", "digits", "--config", "m.onnx"], "--config m.onnx"),
        (["serve", "null", "identity", "--token-file", "m.onnx", *PORTS], "--token-file m.onnx"),
        (["run", "http", "--url", "http://127.0.0.1:1", "--body-file", "m.onnx", "m"], "--body-file m.onnx"),
    ],
    ids=lambda words: " ".join(words[:4]) if isinstance(words, list) else "",
)  # fmt: skip
def test_what_is_no_file_is_refused_without_waiting(
    words: list[str],
    what: str,
    make: Callable[[Path], None],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if make is Path.touch and not what.startswith("the model file"):
        pytest.skip("may be empty, or is refused in words of its own")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "m.onnx")
    one_line_error(here(*words), f"{what} cannot be read: {says}")
