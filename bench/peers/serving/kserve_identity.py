"""kserve's side: its server with an identity model.  Runs as a script in kserve's environment.

kserve has no option for its address and would listen on all addresses of the machine, so both of its servers are
patched to use loopback.  Its log line for each request is off, which makes it faster.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from typing import Any

_HOST = "127.0.0.1"


def on_loopback() -> None:
    """Patch the calls by which kserve binds ports, so that they use loopback."""
    uvicorn, grpc_server = (importlib.import_module(name) for name in ("uvicorn", "kserve.protocol.grpc.server"))
    configure, new_server = uvicorn.Config.__init__, grpc_server.aio.server

    def configured(self: Any, *arguments: Any, **options: Any) -> None:
        configure(self, *arguments, **options | {"host": _HOST})

    def server(*arguments: Any, **options: Any) -> Any:
        made = new_server(*arguments, **options)
        bind = made.add_insecure_port
        made.add_insecure_port = lambda address: bind(f"{_HOST}:{address.rpartition(':')[2]}")
        return made

    uvicorn.Config.__init__ = configured
    grpc_server.aio.server = server


def identity(name: str) -> Any:
    """The model, written like those of the Triton repository: an array in and an array out."""
    kserve = importlib.import_module("kserve")

    class Identity(kserve.Model):  # type: ignore[misc, name-defined]
        async def get_input_types(self) -> list[dict[str, Any]]:
            return [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, -1]}]

        async def get_output_types(self) -> list[dict[str, Any]]:
            return [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, -1]}]

        async def predict(self, payload: Any, *_: Any, **__: Any) -> Any:
            (tensor,) = payload.inputs
            output = kserve.InferOutput("OUTPUT0", tensor.shape, tensor.datatype)
            output.set_data_from_numpy(tensor.as_numpy(), binary_data=payload.from_grpc)
            return kserve.InferResponse(
                payload.id, self.name, [output], from_grpc=payload.from_grpc, requested_outputs=payload.request_outputs
            )

    model = Identity(name)
    model.ready = True
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--http_port", type=int)
    parser.add_argument("--grpc_port", type=int)
    options, _ = parser.parse_known_args()
    kserve = importlib.import_module("kserve")
    on_loopback()
    logging.disable(logging.INFO)
    server = kserve.ModelServer(http_port=options.http_port, grpc_port=options.grpc_port, enable_latency_logging=False)
    server.start([identity("identity")])


if __name__ == "__main__":
    main()
