"""What the http target sends: drawn values, files and folders, as they are or in a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.remote.http.bodies import BYTES, JSON, Bodies, open_source

X = b'{"x": $input}'


def bodies(data: Path | str | None = None, *drawn: str, template: bytes | None = None) -> list[bytes]:
    source = open_source(None if data is None else str(data), drawn, template)
    made = Bodies(source, template)
    found = [bytes(made.sample(index)[0].data) for index in range(made.total_count)]
    assert [made.sample(index)[0].shape for index in range(made.total_count)] == [(len(body),) for body in found]
    assert found == [bytes(made.sample(index)[0].data) for index in range(made.total_count)]  # the same in every call
    return found


@pytest.mark.parametrize(
    ("drawn", "kind", "shape"),
    [
        ("float", float, ()),
        ("3", float, (3,)),
        ("2,3/int", int, (2, 3)),
        ("4/bool", bool, (4,)),
        ("text", str, ()),
        ("2/text", str, (2,)),
        ("/int", int, ()),
    ],
)
def test_drawn_values_are_json(drawn: str, kind: type, shape: tuple[int, ...]) -> None:
    alone, within = bodies(None, drawn), bodies("random", drawn, template=X)
    assert [json.loads(body) for body in alone] == [json.loads(body)["x"] for body in within]
    assert len(set(alone)) > (1 if kind is bool else 20)
    value: Any = json.loads(alone[5])
    assert np.shape(value) == shape
    assert {type(one) for one in np.array(value, object).reshape(-1).tolist()} == {kind}
    assert open_source(None, [drawn], None).content_type == JSON


def test_drawn_bytes() -> None:
    assert {len(body) for body in bodies(None, "1000/bytes")} == {1000}
    assert open_source(None, ["9/bytes"], None).content_type == BYTES


def test_a_template_alone_draws_numbers() -> None:
    assert isinstance(json.loads(bodies(template=X)[0])["x"], float)


def test_a_constant_body_is_one_sample() -> None:
    assert bodies(template=b'{"x": 1}') == [b'{"x": 1}']
    assert bodies(template=b"\xff\0") == [b"\xff\0"]
    assert open_source(None, (), b"\xff").content_type == BYTES
    assert open_source(None, (), b"[1]").content_type == JSON


def test_json_files(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(b'\xef\xbb\xbf[{"a": 1}, "\xc3\xa4", [1.5, null]]')
    (tmp_path / "one.json").write_text('{"a": {"b": 2}}')
    assert bodies(tmp_path / "list.json") == [b'{"a":1}', '"ä"'.encode(), b"[1.5,null]"]
    assert bodies(tmp_path / "list.json", template=b"[$input,$input]")[0] == b'[{"a":1},{"a":1}]'
    assert bodies(tmp_path / "one.json") == [b'{"a":{"b":2}}']


def test_json_lines_go_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"a":  1}\r\n\n[2]  \n"three"')
    assert bodies(file) == [b'{"a":  1}', b"[2]", b'"three"']
    assert bodies(file, template=X)[1] == b'{"x": [2]}'


def test_rows_of_an_array(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "rows.npy", rows)
    assert bodies(tmp_path / "rows.npy") == [row.tobytes() for row in rows]
    assert bodies(tmp_path / "rows.npy", template=X) == [b'{"x": [0.0,1.0,2.0]}', b'{"x": [3.0,4.0,5.0]}']


def test_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"B")
    (tmp_path / "a.png").write_bytes(b"A\0")
    (tmp_path / ".hidden").write_bytes(b"C")
    assert bodies(tmp_path) == [b"A\0", b"B"]
    assert open_source(str(tmp_path), (), None).content_type == "image/png"
    (tmp_path / "c.txt").write_bytes(b"C")
    assert open_source(str(tmp_path), (), None).content_type == BYTES


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    for name, text in {
        "bad.json": b"{",
        "lines.json": b"1\n2\n",
        "bad.jsonl": b"1\n{\n",
        "empty.json": b"[]",
        "half.json": b'["\\ud800"]',
    }.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "number.npy", np.array(3.0))
    np.save(tmp_path / "half.npy", np.array(["\ud800"]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.jpg").write_bytes(b"A")
    for data, drawn, template, words in (
        (None, (), None, ["--body", "--input-data", "--input"]),
        (None, ("1", "2"), None, ["one shape"]),
        (None, ("3;4",), None, ["SHAPE/KIND"]),
        (None, ("3/double",), None, ["float, int"]),
        (None, ("0",), None, ["SHAPE/KIND"]),
        (None, ("99999999999",), None, ["GiB"]),
        (None, ("3/bytes",), X, ["$input", "bytes"]),
        (None, ("3",), b"{}", ["no $input"]),
        ("bad.json", (), b"{}", ["no $input"]),
        ("bad.json", ("3",), None, ["leave one out"]),
        ("missing", (), None, ["no such file"]),
        ("bad.json", (), None, ["bad.json", "not JSON"]),
        ("lines.json", (), None, [".jsonl"]),
        ("bad.jsonl", (), None, ["line 2"]),
        ("empty.json", (), None, ["no samples"]),
        ("folder", (), None, ["no samples"]),
        ("half.json", (), None, ["half.json: sample 0", "surrogate"]),
        ("half.npy", (), X, ["half.npy: row 0", "surrogate"]),
        (None, (",".join(["1"] * 68),), None, ["68 sizes: give at most 32"]),
        ("full", (), X, ["leave the body out"]),
        ("bad.npy", (), None, ["bad.npy"]),
        ("objects.npy", (), None, ["objects.npy holds Python objects, which are not read"]),
        ("number.npy", (), None, ["a row a sample"]),
    ):
        with pytest.raises(UserError) as caught:
            open_source(data and str(tmp_path / data), drawn, template).read(0)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value), (data, drawn, template)
