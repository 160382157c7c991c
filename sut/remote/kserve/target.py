"""The options of a model on servers that speak KServe v2, such as Triton's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drumfire.loadgen.options import option
from drumfire.sut import models
from drumfire.sut.remote.target import TargetOptions


@dataclass(frozen=True)
class TritonOptions(TargetOptions):
    """The options of this target."""

    TITLE: ClassVar = "KServe v2 servers"

    client: str = option(
        "drumfire",
        choices=("drumfire", "tritonclient"),
        help="client to use: drumfire (default), or for comparison Triton's own client library, tritonclient",
    )
    max_batchsize: int = option(1, help="samples in a request; with 1, the server batches")
    model_version: str = option("", metavar="V", help="(default: the server chooses)")
    input: tuple[str, ...] = option(
        (),
        metavar="NAME:SHAPE",
        help="shape of an input whose sizes the model leaves open, without the batch, such as INPUT0:3,224,224",
    )
    input_data: str | None = option(
        None,
        metavar="WHAT",
        help=f"random (default), zero, a named data set ({', '.join(models.MODELS)}), a folder with INPUT.npy for each "
        "input, or a JSON file as perf_analyzer reads it; outputs in that file are compared with the replies",
    )
    shared_memory: str = option(
        "none",
        metavar="KIND",
        choices=("none", "system", "cuda"),
        help="hand tensors over in shared memory, one sample a request, to a server on this host: none (default), "
        "system or cuda; at most 64 requests are under way, unless --concurrency says otherwise",
    )
    metrics_url: tuple[str, ...] = option(
        (),
        metavar="URL",
        help="the server's Prometheus metrics, one for each --url (default: port 8002 of its host, if it answers)",
    )


OPTIONS = TritonOptions
