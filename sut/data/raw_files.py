"""Samples from a folder of any files, for a model of one text: a file's bytes are an element."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drumfire.loadgen.files import read_bytes
from drumfire.loadgen.wording import counted
from drumfire.sut.data.inputs import InputError, Inputs, Sample, inputs_text
from drumfire.sut.kserve.messages.tensors import ModelInterface, Shape, Tensor, pack_bytes


class RawFiles(Inputs):
    """Each file of a folder, in the order of their names, is a sample of one element; those that begin with a dot are
    not."""

    def __init__(self, folder: Path, interface: ModelInterface) -> None:
        """Raises ``InputError`` unless the model takes one BYTES input, of one element."""
        if not takes(interface):
            raise InputError(
                f"{folder} has no .npy file, and only a model of one text takes other files: {inputs_text(interface)}"
            )
        try:
            self._files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        except OSError as error:
            raise InputError(f"cannot read {folder}: {error.strerror}") from None
        if not self._files:
            raise InputError(f"{folder} has no samples")
        if inner := next((file for file in self._files if file.is_dir()), None):
            raise InputError(f"{inner} is a folder, and each file of {folder} is a sample: move it away")
        self.name, self.total_count = folder.resolve().name, len(self._files)
        self.description = f"{counted(len(self._files), 'file')} of {folder}"
        self._shape: Shape = (1,) * len(interface.inputs[0].shape)

    def shapes(self, index: int) -> Sequence[Shape]:
        return [self._shape]

    def place(self, index: int) -> str:
        return str(self._files[index])

    def sample(self, index: int) -> Sample:
        return (Tensor(self._shape, pack_bytes([read_bytes(self._files[index], error=InputError)])),)


def takes(interface: ModelInterface) -> bool:
    """Whether the model takes a single text."""
    if len(interface.inputs) != 1:
        return False
    (spec,) = interface.inputs
    return spec.datatype == "BYTES" and all(size in (-1, 1) for size in spec.shape)
