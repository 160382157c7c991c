"""A KServe server on loopback that plays a script: right until the script says otherwise.

HTTP/2 is ``h2``'s and HTTP/1.1 is written out here, so that what we send is judged by other hands than our own.  Each
connection is a thread that runs the script on a ``Talk``; an error in it (a broken protocol, above all) is raised when
the peer is left.  The model is called ``echo``: it gives back rows of ``width`` FP32 values.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from drumfire.sut.kserve.http2.frames import frame
from drumfire.sut.kserve.messages.protobuf import bytes_field, fields, numbers_field, text_field

GOAWAY, RST_STREAM = 7, 3
HUGE_WINDOW = 2**31 - 1
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, ssl.SSLError)


class Call(NamedTuple):
    """An inference request, whole."""

    talk: Talk
    stream: int
    """0 over HTTP."""
    headers: dict[str, str]
    contents: bytes
    """The input's values."""
    ordinal: int
    """How many inference requests the peer had had before, over all connections."""


class Peer:
    """``script`` is called with each connection's ``Talk``; when it returns, the connection is closed."""

    def __init__(
        self,
        protocol: str,
        script: Callable[[Talk], None] | None = None,
        *,
        width: int = 4,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
        settings: dict[int, int] | None = None,
        listening: bool = True,
    ) -> None:
        self.protocol, self.width, self.tls, self.settings = protocol, width, tls, settings or {}
        self._script = script or (lambda talk: [talk.answer(call) for call in talk.calls()] and None)
        self.talks: list[Talk] = []
        self.calls: list[Call] = []
        self.answered: Counter[bytes] = Counter()
        """Answers given, by the contents."""
        self.errors: list[BaseException] = []
        self._stopped = False
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        if listening:
            self._listener.listen(256)
            self._start(self._accept)

    @property
    def url(self) -> str:
        scheme = {"grpc": ("grpc", "grpcs"), "http": ("http", "https")}[self.protocol][self.tls is not None]
        return f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a script did not end"
        if kind is None and self.errors:
            raise self.errors[0]

    def stop(self) -> None:
        """Stop listening, and cut every connection."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for talk in list(self.talks):
            talk.cut()

    def heard(self) -> bytes:
        """Everything that came, TLS taken off."""
        return b"".join(bytes(talk.heard) for talk in self.talks)

    def note(self, call: Call) -> Call:
        with self._lock:
            call = call._replace(ordinal=len(self.calls))
            self.calls.append(call)
        return call

    def note_answer(self, call: Call) -> None:
        with self._lock:
            self.answered[call.contents] += 1

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._talk, accepted)

    def _talk(self, accepted: socket.socket) -> None:
        try:
            if self.tls is not None:
                accepted = self.tls.wrap_socket(accepted, server_side=True)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            talk = (GrpcTalk if self.protocol == "grpc" else HttpTalk)(self, accepted)
            self.talks.append(talk)
            if self._stopped:  # meanwhile
                talk.cut()
        except OSError:  # the other side went, or did not trust us
            accepted.close()
            return
        try:
            talk.begin()
            self._script(talk)
        except _GONE:
            pass
        except OSError as error:
            if not talk.is_cut:
                self.errors.append(error)
        except BaseException as error:
            self.errors.append(error)
        finally:
            talk.cut()
            accepted.close()


class Talk:
    """One connection, as the script sees it."""

    def __init__(self, peer: Peer, accepted: socket.socket) -> None:
        self.peer, self.socket = peer, accepted
        self.number = len(peer.talks)
        self.heard = bytearray()
        self.is_cut = False
        self.alpn = accepted.selected_alpn_protocol() if isinstance(accepted, ssl.SSLSocket) else None

    def begin(self) -> None:
        """What the server says first."""

    def calls(self, idle: float | None = None) -> Iterator[Call]:
        """The inference requests, each when it is whole; ends with the connection.  Other questions are answered."""
        for call in self.listen(idle):
            if call is not None:
                yield call

    def listen(self, idle: float | None = None) -> Iterator[Call | None]:
        """As ``calls``, but gives None as well whenever nothing came for ``idle`` seconds."""
        raise NotImplementedError

    def answer(self, call: Call, contents: bytes | None = None) -> None:
        """All is well."""
        raise NotImplementedError

    def refuse(self, call: Call, text: str) -> None:
        """The server's own error."""
        raise NotImplementedError

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection at once, both ways."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _receive(self, idle: float | None) -> bytes | None:
        """None when nothing came for ``idle`` seconds, nothing at the end."""
        self.socket.settimeout(idle)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return None
        finally:
            self.socket.settimeout(None)
        self.heard += data
        return data


class GrpcTalk(Talk):
    def begin(self) -> None:
        self.open: dict[int, dict[str, str]] = {}
        self.most_open = 0
        """The most calls that were ever open together."""
        self.cancelled: list[int] = []
        self.said_goodbye = False
        self._bodies: dict[int, bytearray] = {}
        self._unsent: dict[int, bytearray] = {}
        """What the peer's windows do not allow yet, by stream."""
        self._ending: set[int] = set()
        """Streams whose trailers wait for that."""
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        ours = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1} | self.peer.settings
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=ours)
        self.h2.initiate_connection()
        if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in ours:
            self.h2.increment_flow_control_window(HUGE_WINDOW - 65_535)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def settings(self, values: dict[int, int]) -> None:
        self.h2.update_settings(values)
        self.flush()

    def listen(self, idle: float | None = None) -> Iterator[Call | None]:
        while (data := self._receive(idle)) != b"":
            if data is None:
                yield None
                continue
            whole: list[Call] = []
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.open[event.stream_id] = dict(event.headers)
                    self.most_open = max(self.most_open, len(self.open))
                    self._bodies[event.stream_id] = bytearray()
                elif isinstance(event, h2.events.DataReceived):
                    self._bodies[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    whole += self._whole(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.cancelled.append(event.stream_id)
                    self.open.pop(event.stream_id, None)
                    self._unsent.pop(event.stream_id, None)
                    self._ending.discard(event.stream_id)
                elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                    for stream in list(self._unsent):
                        self._push(stream)
                elif isinstance(event, h2.events.ConnectionTerminated):
                    self.said_goodbye = True
            if not self.said_goodbye:
                self.flush()
            yield from whole
            if self.said_goodbye:  # h2 takes nothing more
                return

    def _whole(self, stream: int) -> list[Call]:
        headers, body = self.open[stream], bytes(self._bodies.pop(stream))
        assert body[:1] == b"\0"
        assert int.from_bytes(body[1:5], "big") == len(body) - 5
        method = headers[":path"].removeprefix("/inference.GRPCInferenceService/")
        if method == "ModelInfer":
            values = b"".join(bytes(field.value) for field in fields(memoryview(body)[5:]) if field.number == 7)
            return [self.peer.note(Call(self, stream, headers, values, 0))]
        tensors = [text_field(1, name) + text_field(2, "FP32") + numbers_field(3, (2**64 - 1, self.peer.width))
                   for name in ("INPUT0", "OUTPUT0")]  # fmt: skip
        known = {
            "ServerMetadata": text_field(1, "scripted") + text_field(2, "1"),
            "ModelMetadata": text_field(1, "echo") + bytes_field(4, tensors[0]) + bytes_field(5, tensors[1]),
        }
        if method in known:
            self._reply(stream, known[method])
        else:
            self.end(stream, 12, "not known here")
        return []

    def reply(self, call: Call, contents: bytes | None = None) -> bytes:
        """The ModelInferResponse that is right."""
        contents = call.contents if contents is None else contents
        shape = (len(contents) // 4 // self.peer.width, self.peer.width)
        tensor = text_field(1, "OUTPUT0") + text_field(2, "FP32") + numbers_field(3, shape)
        return text_field(1, "echo") + bytes_field(5, tensor) + bytes_field(6, contents)

    def answer(self, call: Call, contents: bytes | None = None) -> None:
        if self.said_goodbye:
            return
        self.peer.note_answer(call)
        self._reply(call.stream, self.reply(call, contents))

    def _reply(self, stream: int, message: bytes) -> None:
        self.head(stream)
        self.data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        self.trailers(stream)

    def head(self, stream: int, *more: tuple[str, str]) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc"), *more])

    def data(self, stream: int, data: bytes) -> None:
        self._unsent.setdefault(stream, bytearray()).extend(data)
        self._push(stream)
        self.flush()

    def _push(self, stream: int) -> None:
        unsent = self._unsent[stream]
        while unsent:
            size = min(len(unsent), self.h2.max_outbound_frame_size, self.h2.local_flow_control_window(stream))
            if size <= 0:
                return
            self.h2.send_data(stream, bytes(unsent[:size]))
            del unsent[:size]
        del self._unsent[stream]
        if stream in self._ending:
            self._ending.discard(stream)
            self.trailers(stream)

    def trailers(self, stream: int) -> None:
        if stream in self._unsent:
            self._ending.add(stream)
            return
        self.open.pop(stream)
        self.h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self.flush()

    def end(self, stream: int, status: int, text: str) -> None:
        """Trailers only."""
        self.open.pop(stream)
        head = [(":status", "200"), ("content-type", "application/grpc")]
        self.h2.send_headers(stream, [*head, ("grpc-status", str(status)), ("grpc-message", text)], end_stream=True)
        self.flush()

    def refuse(self, call: Call, text: str) -> None:
        self.end(call.stream, 3, text)

    def reset(self, call: Call, code: int) -> None:
        self.open.pop(call.stream)
        self.h2.reset_stream(call.stream, code)
        self.flush()

    def goaway(self, last: int, code: int = 0, text: bytes = b"") -> None:
        """Behind h2's back, which would hear nothing more after it."""
        self.raw(frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text))


class HttpTalk(Talk):
    def begin(self) -> None:
        self._rest = bytearray()

    def listen(self, idle: float | None = None) -> Iterator[Call | None]:
        while True:
            while (end := self._rest.find(b"\r\n\r\n")) < 0:
                if self._rest and not self._rest[:1].isalpha():  # TLS, as any server finds
                    return self.say(400, b"")
                if not (yield from self._more(idle)):
                    return
            first, *lines = bytes(self._rest[:end]).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            assert "transfer-encoding" not in headers
            size = end + 4 + int(headers.get("content-length", 0))
            while len(self._rest) < size:
                if not (yield from self._more(idle)):
                    return
            body = bytes(self._rest[end + 4 : size])
            del self._rest[:size]
            call = self._whole(first, headers, body)
            if call is not None:
                yield call

    def _more(self, idle: float | None) -> Generator[None, None, bool]:
        while (data := self._receive(idle)) is None:
            yield None
        self._rest += data
        return bool(data)

    def _whole(self, first: str, headers: dict[str, str], body: bytes) -> Call | None:
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1"
        if (method, target) == ("POST", "/v2/models/echo/infer"):
            size = int(headers["inference-header-content-length"])
            (described,) = json.loads(body[:size])["inputs"]
            assert described["parameters"]["binary_data_size"] == len(body) - size
            return self.peer.note(Call(self, 0, headers, body[size:], 0))
        if method != "GET":  # of any other service
            return self.peer.note(Call(self, 0, {**headers, ":method": method, ":path": target}, body, 0))
        tensor = {"datatype": "FP32", "shape": [-1, self.peer.width]}
        known = {
            "/v2": {"name": "scripted", "version": "1", "extensions": []},
            "/v2/models/echo": {
                "name": "echo", "platform": "", "inputs": [tensor | {"name": "INPUT0"}],
                "outputs": [tensor | {"name": "OUTPUT0"}],
            },
        }  # fmt: skip
        assert method == "GET"
        if target in known:
            self.say(200, json.dumps(known[target]).encode())
        else:
            self.say(404, b'{"error":"not known here"}')
        return None

    def reply(self, call: Call, contents: bytes | None = None) -> tuple[bytes, int]:
        """The body that is right, and how much of it is JSON."""
        contents = call.contents if contents is None else contents
        shape = [len(contents) // 4 // self.peer.width, self.peer.width]
        output = {"name": "OUTPUT0", "datatype": "FP32", "shape": shape}
        output |= {"parameters": {"binary_data_size": len(contents)}}
        text = json.dumps({"model_name": "echo", "outputs": [output]}).encode()
        return text + contents, len(text)

    def answer(self, call: Call, contents: bytes | None = None, **fields: str) -> None:
        self.peer.note_answer(call)
        body, size = self.reply(call, contents)
        self.say(200, body, **{"Inference-Header-Content-Length": str(size)}, **fields)

    def refuse(self, call: Call, text: str) -> None:
        self.say(400, json.dumps({"error": text}).encode())

    def say(self, status: int, body: bytes, **fields: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
        self.raw("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait, and fail when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.005)
