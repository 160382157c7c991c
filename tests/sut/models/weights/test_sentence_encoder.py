"""The sentence encoder's network reads past the padding, and is the package's file with the mean added."""

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.models.minilm import MiniLM
from tests.support.packages import MINILM, need


def test_padding_changes_nothing() -> None:
    need("torch")
    import torch

    from drumfire.sut.models.networks.bert import SentenceEncoder

    torch.manual_seed(0)
    network = SentenceEncoder(layers=2, width=16, heads=2, inner=32, words=50).eval()
    ids = torch.randint(0, 50, (1, 6))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    padded = torch.cat([ids, torch.full((1, 4), 7)], 1), torch.cat([mask, torch.zeros((1, 4), dtype=torch.int64)], 1)
    with torch.no_grad():
        alone = network(ids, mask, types)
        beside = network(*padded, torch.zeros_like(padded[0]))
    torch.testing.assert_close(beside["sentence_embedding"], alone["sentence_embedding"])
    torch.testing.assert_close(beside["last_hidden_state"][:, :6], alone["last_hidden_state"])
    mean = alone["last_hidden_state"].mean(1)
    torch.testing.assert_close(alone["sentence_embedding"], mean / mean.norm(dim=1, keepdim=True))


@pytest.mark.extra
def test_the_network_is_the_file(tmp_path: Path) -> None:
    need(*MINILM, "torch")
    import onnxruntime
    import torch

    from drumfire.sut.models.networks.bert import SentenceEncoder
    from drumfire.sut.models.weights import sentence_encoder

    shipped = MiniLM.shipped.of("minilm", "minilm")
    path = sentence_encoder.with_embedding(shipped, tmp_path / "cache" / "minilm.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(1000, 30000, (3, 20))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    batch["attention_mask"][1, 12:] = 0
    hidden, embedding = session.run(["last_hidden_state", "sentence_embedding"], batch)
    plain = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"]).run(None, batch)
    np.testing.assert_array_equal(hidden, plain[0])
    with torch.no_grad():
        made = sentence_encoder.fill(SentenceEncoder(), shipped).eval()(*map(torch.from_numpy, batch.values()))
    np.testing.assert_allclose(made["sentence_embedding"].numpy(), embedding, atol=2e-6)
    before = path.stat().st_mtime_ns
    assert sentence_encoder.with_embedding(shipped, path).stat().st_mtime_ns == before  # made once
