"""From characters to token ids: CLIP's byte-pair encoding and BERT's word pieces.

`merges/` holds their published vocabularies and the tiny model's own; `train_merges` learns one.
May import: nothing of minisd. Imported by: pipeline, tiny.
"""

from .tokenizer import Tokenizer, train_merges
from .wordpiece import WordPiece

__all__ = ["Tokenizer", "WordPiece", "train_merges"]
