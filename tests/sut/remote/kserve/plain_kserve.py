"""A KServe v2 server that is no Triton: it infers and describes its model, and knows neither statistics nor
configuration.  Run as a process: it says its ports, gRPC's and HTTP's, and ends when its standard input does.  With
files of a certificate and its key as arguments both are over TLS.

The model ``double`` takes any number of FP32 rows ``x`` of four and gives ``y``, twice as much.  Requests with the
header ``token: wrong`` are refused, and so are those that ask for a compressed reply over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

HOST = "127.0.0.1"
SERVER = {"name": "plain", "version": "1", "extensions": []}
MODEL = {
    "name": "double",
    "versions": ["1"],
    "platform": "numpy",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
}


class Refused(Exception):
    """A request that is not for this model.  The text is for the client."""


def double(token: str | None, model: str, name: str, datatype: str, shape: list[int], data: bytes) -> bytes:
    if token == "wrong":
        raise Refused("this token opens nothing")
    if (model, name, datatype) != ("double", "x", "FP32") or len(shape) != 2 or shape[1] != 4:
        raise Refused(f"no model takes {name} {datatype}{shape}")
    values = np.frombuffer(data, "<f4")
    if values.size != shape[0] * shape[1]:
        raise Refused(f"{values.size} values for the shape {shape}")
    return (2 * values).tobytes()


class Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What is not here is UNIMPLEMENTED."""

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name == "double")

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(**SERVER)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name != "double":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        return service_pb2.ModelMetadataResponse(**MODEL)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        (tensor,), (data,) = request.inputs, request.raw_input_contents
        try:
            token = dict(context.invocation_metadata()).get("token")
            doubled = double(token, request.model_name, tensor.name, tensor.datatype, list(tensor.shape), data)
        except Refused as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        # Some servers send an empty message for contents that lie in the raw ones.
        output = {"name": "y", "datatype": "FP32", "shape": tensor.shape, "contents": {}}
        return service_pb2.ModelInferResponse(
            model_name="double", model_version="1", id=request.id, outputs=[output], raw_output_contents=[doubled]
        )


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if re.fullmatch("/v2/health/(live|ready)|/v2/models/double/ready", self.path):
            self._answer(200, b"")
        elif self.path == "/v2":
            self._tell(200, SERVER)
        elif self.path == "/v2/models/double":
            self._tell(200, MODEL)
        else:
            self._tell(404, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        request = json.loads(body[:length])
        target = re.fullmatch("/v2/models/([^/]+)/infer", self.path)
        if target is None:
            self._tell(404, {"error": f"nothing at {self.path}"})
            return
        (tensor,) = request["inputs"]
        try:
            token = self.headers.get("token")
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                raise Refused("to compress takes the server's time, and nobody should ask for it")
            doubled = double(token, target[1], tensor["name"], tensor["datatype"], tensor["shape"], body[length:])
        except Refused as error:
            self._tell(400, {"error": str(error)})
            return
        output = {"name": "y", "datatype": "FP32", "shape": tensor["shape"]}
        head = {"model_name": "double", "model_version": "1", "outputs": [output]}
        asked = request.get("outputs", [request])[0].get("parameters", {})
        if not (asked.get("binary_data") or asked.get("binary_data_output")):
            output["data"] = np.frombuffer(doubled, "<f4").tolist()
            self._tell(200, head)
            return
        output["parameters"] = {"binary_data_size": len(doubled)}
        text = json.dumps(head).encode()
        self._answer(200, text + doubled, {"Inference-Header-Content-Length": str(len(text))})

    def log_message(self, *_: object) -> None:
        pass

    def _tell(self, status: int, what: object) -> None:
        self._answer(status, json.dumps(what).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        # Head and body in one piece: in two, the second would wait for the client to acknowledge the first.
        self._headers_buffer.append(b"\r\n" + body)
        self.flush_headers()


class HttpServer(ThreadingHTTPServer):
    request_queue_size = 128  # connections that are made at once
    daemon_threads = True


async def main() -> None:
    certificate = list(map(Path, sys.argv[1:]))
    over_http = HttpServer((HOST, 0), Http)
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        over_http.socket = context.wrap_socket(over_http.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=over_http.serve_forever, daemon=True).start()
    over_grpc = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Grpc(), over_grpc)
    if certificate:
        chain, key = (path.read_bytes() for path in certificate)
        port = over_grpc.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([(key, chain)]))
    else:
        port = over_grpc.add_insecure_port(f"{HOST}:0")
    await over_grpc.start()
    print(port, over_http.server_port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await over_grpc.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
