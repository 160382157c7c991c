"""ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, first_line, interface
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Input, Tensors

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
FORM = Form.ONNX
EXTRAS = {"cpu": "onnx-cpu", "gpu": "onnx-gpu"}
PRECISIONS = ("fp32",)
OPTIONS = BackendOptions
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def check_installation() -> None:
    """Raise ``BackendError`` unless exactly one of the two wheels is installed: they overwrite each other's files."""
    found = versions(DISTRIBUTIONS)
    if all(found.values()):
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            f"{installation.pip()} uninstall both, then install the one you want"
        )
    if not any(found.values()):
        raise BackendError(f"onnxruntime is not installed: {installation.command('onnx-cpu')} (or [onnx-gpu])")


def load(model: Path, device: str, threads: int, options: BackendOptions) -> Backend:
    check_installation()
    import onnxruntime

    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise BackendError(
            f"this onnxruntime has no CUDA: {installation.pip()} uninstall onnxruntime, then "
            f"{installation.command('onnx-gpu')}, or run on the cpu"
        )
    if device == "gpu" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        session, whole = _session(model, provider, threads)
    except Exception as error:  # onnxruntime raises many kinds, which share no base class
        raise BackendError(f"onnxruntime cannot load {model} on the {device}: {first_line(error)}") from None
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"asked for {provider}, but onnxruntime fell back to {session.get_providers()[0]}: "
            "check the GPU driver and the CUDA libraries ('drumfire doctor'), or run on the cpu"
        )
    place = provider if whole else f"{provider}, some operators on the CPU"
    return OnnxRuntime(session, place, onnxruntime.__version__)


def _session(model: Path, provider: str, threads: int) -> tuple[Any, bool]:
    """The model's session, and whether all of its operators run on the provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the cores that the load generator needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if provider != _PROVIDERS["cpu"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return onnxruntime.InferenceSession(str(model), options, providers=[provider]), True
        except Exception:  # of many kinds; any other cause raises again below
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
            return onnxruntime.InferenceSession(str(model), options, providers=[provider]), False
    return onnxruntime.InferenceSession(str(model), options, providers=[provider]), True


class OnnxRuntime:
    """A session."""

    def __init__(self, session: Any, place: str, version: str) -> None:
        self._session = session
        self.description = f"onnxruntime {version} {place}"
        takes, self._outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
        interface.check_inputs([one.name for one in takes])
        self.tensors = Tensors(tuple(map(_input, takes)), tuple(self._outputs))

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        outputs: Sequence[npt.NDArray[Any]] = self._session.run(self._outputs, batch)
        return outputs

    def close(self) -> None:
        self._session = None


def _input(takes: Any) -> Input:
    if takes.type not in _DTYPES:
        raise BackendError(f"the model's input is a {takes.type}, which is not supported")
    return interface.as_input(takes.name, takes.shape, _DTYPES[takes.type])
