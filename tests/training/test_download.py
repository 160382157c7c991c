"""Fetching goes on where it stopped, and only what has the right checksum is kept.  From a server on loopback."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

from drumfire.training import pictures, prepare  # noqa: E402
from drumfire.training.download import fetch  # noqa: E402
from drumfire.training.faults import InputError  # noqa: E402

CONTENT = bytes(range(256)) * 9000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves files, parts of them if asked; ends a connection early if told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.end_after: int | None = None
        self.ranges: list[str | None] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path[1:])
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if content is None:
            self.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if first >= len(content) and asked:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.end_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["a"] = CONTENT
    server.end_after = 1_000_000
    path = tmp_path / "data" / "a"
    with pytest.raises(InputError, match="run the same command again to resume"):
        fetch(server.url("a"), path, MD5)
    assert not path.exists()
    server.end_after = None
    fetch(server.url("a"), path, MD5)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-"]
    assert list(path.parent.iterdir()) == [path]


def test_all_was_there_but_its_name(server: Server, tmp_path: Path) -> None:
    server.files["a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    fetch(server.url("a"), tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_wrong_checksum_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.files["a"] = CONTENT[:-1] + b"!"
    with pytest.raises(InputError, match=f"not {MD5}: start again"):
        fetch(server.url("a"), tmp_path / "a", MD5)
    assert list(tmp_path.iterdir()) == []


def test_not_there_and_no_room(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="404"):
        fetch(server.url("a"), tmp_path / "a", MD5)
    with pytest.raises(InputError, match="may be needed"):
        fetch(server.url("a"), tmp_path / "a", MD5, needed_bytes=10**18)


def test_preparing_coco_fetches_unpacks_and_checks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    pictures.generate(made, pictures.SAMPLE)
    archives = []
    for name, holds in (
        ("annotations.zip", ("annotations/instances_train2017.json", "annotations/instances_val2017.json")),
        ("val.zip", ("val2017",)),
        ("train.zip", ("train2017",)),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(made.rglob("*.*")):
                inside = path.relative_to(made).as_posix()
                if inside.startswith(holds):
                    archive.write(path, inside)
        server.files[name] = packed.getvalue()
        archives.append(prepare._Archive(server.url(name), hashlib.md5(packed.getvalue()).hexdigest(), holds))
    server.files["R-50.pkl"] = b"weights"
    monkeypatch.setattr(prepare, "_COCO", tuple(archives))
    monkeypatch.setattr(prepare, "_WEIGHTS", server.url("R-50.pkl"))
    monkeypatch.setattr(prepare, "_BYTES_NEEDED", 0)
    folder = tmp_path / "coco"
    assert prepare.main(["coco", "--data-dir", str(folder)]) == 0
    assert "train: 16 images" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["R-50.pkl", "annotations", "train2017", "val2017"]
    before = len(server.ranges)
    assert prepare.main(["coco", "--data-dir", str(folder)]) == 0
    assert len(server.ranges) == before, "what is there is not fetched again"
