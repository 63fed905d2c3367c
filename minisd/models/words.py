"""Textual inversion (arXiv 2208.01618): a new word, which is new rows of the token embedding.

`add_words` puts them into a text encoder, to be trained; `with_words` makes a copy that has them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert import BERTText
from .clip import CLIPText, OpenCLIPText
from .configs import replace

EMBEDDING = {  # where a text encoder has its token embedding
    BERTText: "transformer.token_emb",
    CLIPText: "text_model.embeddings.token_embedding",
    OpenCLIPText: "token_embedding",
}


def embed_with_words(tokens: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
    """Textual Inversion §4.1, Figure 2: a new word's tokens are looked up in vectors v* that learn.

        v(i) = table[i] for i < V,  v*[i - V] from there on

    tokens (b, n), table (V, d), vectors (k, d) -> (b, n, d). Eq. 2 is LDM's loss, as v* sees it.
    Official: `EmbeddingManager.forward`
    """
    return F.embedding(tokens, torch.cat([table, vectors]))


class Words(nn.Module):
    """A token embedding, frozen, and below its rows those of new words, which learn."""

    def __init__(self, layer: nn.Embedding, vectors: Tensor):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.vectors = nn.Parameter(vectors.detach().clone().to(layer.weight))

    def forward(self, tokens: Tensor) -> Tensor:
        return embed_with_words(tokens, self.layer.weight, self.vectors)


def add_words(text: nn.Module, vectors: Tensor) -> nn.Parameter:
    """Freeze a text encoder, in place, and give it rows (k, width) for k new tokens, after its own.

    The parameter to train is given back. ValueError for rows of another width, and where words are
    in training already.
    """
    parent, name = _embedding(text)
    _check(text, vectors)
    text.requires_grad_(False)
    words = Words(getattr(parent, name), vectors)
    setattr(parent, name, words)
    text.config = more_words(text.config, len(vectors))
    return words.vectors


def more_words(config, count: int):
    """A text encoder's config with so many tokens more, which come after the end token."""
    vocabulary, words = config.vocabulary + count, config.words + count
    return replace(config, vocabulary=vocabulary, words=words)


def with_words(text: nn.Module, vectors: Tensor) -> nn.Module:
    """A new text encoder with rows (k, width) more; it shares all other weights with the old.
    ValueError for rows of another width.
    """
    _check(text, vectors)
    key, state = f"{EMBEDDING[type(text)]}.weight", text.state_dict()
    state[key] = torch.cat([state[key], vectors.to(state[key])])
    with torch.device("meta"):
        copy = type(text)(more_words(text.config, len(vectors)))
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def token_embedding(text: nn.Module) -> Tensor:
    """The rows of a text encoder's tokens, (vocabulary, width); ValueError where words are in
    training beside them."""
    return getattr(*_embedding(text)).weight


def _embedding(text: nn.Module) -> tuple[nn.Module, str]:
    parent, _, name = EMBEDDING[type(text)].rpartition(".")
    parent = text.get_submodule(parent)
    if not isinstance(getattr(parent, name), nn.Embedding):
        raise ValueError("the text encoder has words in training already")
    return parent, name


def _check(text: nn.Module, vectors: Tensor) -> None:
    width = text.config.width
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != width:
        raise ValueError(f"the vectors must be (k, {width}), got {tuple(vectors.shape)}")
