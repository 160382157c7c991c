"""Triton's own clients, of gRPC and of HTTP alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

grpc_client = pytest.importorskip("tritonclient.grpc", exc_type=Exception)
http_client = pytest.importorskip("tritonclient.http", exc_type=Exception)
utils = pytest.importorskip("tritonclient.utils", exc_type=Exception)
CLIENTS = {"grpc": grpc_client, "http": http_client}


@contextmanager
def connected(addresses: Any, protocol: str) -> Iterator[Any]:
    """``addresses``: its ``grpc`` and ``http`` are host:port."""
    kind = CLIENTS[protocol]
    made = kind.InferenceServerClient(getattr(addresses, protocol))
    made.kind = kind
    yield made
    made.close()


def tensor(client: Any, name: str, array: np.ndarray, **options: Any) -> Any:
    made = client.kind.InferInput(name, array.shape, utils.np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **options)
    return made


def infer(client: Any, name: str, batch: Mapping[str, np.ndarray], **options: Any) -> list[np.ndarray]:
    if name == "bfloat16":
        batch = {key: bits.view(utils.triton_to_np_dtype("BF16")) for key, bits in batch.items()}
    answer = client.infer(name, [tensor(client, key, array) for key, array in batch.items()], **options)
    outputs = [answer.as_numpy(one) for one in output_names(client, answer)]
    return [output.view(np.uint16) for output in outputs] if name == "bfloat16" else outputs


def output_names(client: Any, answer: Any) -> list[str]:
    told = answer.get_response()
    return (
        [one.name for one in told.outputs] if client.kind is grpc_client else [one["name"] for one in told["outputs"]]
    )
