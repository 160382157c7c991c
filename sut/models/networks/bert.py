"""BERT as a sentence encoder: named as in the files of Hugging Face, so that their state dicts load as they are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention


class SentenceEncoder(nn.Module):
    """A BERT whose sentence embedding is the mean over the tokens that the mask keeps, of length 1.

    Takes three int64 tensors of shape (n, tokens); gives float32 of shapes (n, tokens, width) and (n, width).
    """

    def __init__(
        self, layers: int = 6, width: int = 384, heads: int = 12, inner: int = 1536, words: int = 30522
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(words, width)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(width, heads, inner) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        hidden = self.embeddings(input_ids, token_type_ids)
        kept = attention_mask[:, None, None, :] != 0
        for layer in self.encoder.layer:
            hidden = layer(hidden, kept)
        weights = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return {"last_hidden_state": hidden, "sentence_embedding": normalize(mean)}


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12)


class _Embeddings(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(512, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = _norm(width)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        summed = self.word_embeddings(ids) + self.token_type_embeddings(types) + positions
        return self.LayerNorm(summed)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Attention and two dense layers, each with its residual and norm."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": _norm(width)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": _norm(width)})

    def forward(self, hidden: Tensor, kept: Tensor) -> Tensor:
        split = [
            self.attention["self"][name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        ]
        attended = scaled_dot_product_attention(*split, attn_mask=kept).transpose(1, 2).flatten(2)
        output = self.attention["output"]
        hidden = output["LayerNorm"](output["dense"](attended) + hidden)
        widened = gelu(self.intermediate["dense"](hidden))
        return self.output["LayerNorm"](self.output["dense"](widened) + hidden)  # type: ignore[no-any-return]
