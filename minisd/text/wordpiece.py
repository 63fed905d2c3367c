"""BERT's tokens, which LDM-1.4B's text encoder reads. No merges: a word is cut from the left.

    tokens = WordPiece.bert()("a photograph of an axolotl")    # (1, 77)

"axolotl" -> "ax", "##olo", "##tl": each the longest piece there is; "##" goes on with a word.
"""

import gzip
import re
import unicodedata
from collections.abc import Sequence
from importlib.resources import files

from .tokenizer import Rows

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")  # tokens as they stand in a text
IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f]"
)
LONGEST = 100  # characters of a word; a longer one is unknown


def plain(text: str) -> str:
    """What uncased BERT does to a text: no control characters, no accents, no capitals, and a space
    on both sides of every ideograph."""
    kept = (c for c in text if c in "\t\n\r" or c != "\ufffd" and unicodedata.category(c)[0] != "C")
    spaced = IDEOGRAPH.sub(r" \g<0> ", "".join(kept))
    apart = unicodedata.normalize("NFD", spaced)
    return "".join(c.lower() for c in apart if unicodedata.category(c) != "Mn")


def split_plain(text: str) -> list[str]:
    """Words between spaces; each mark of punctuation and each ASCII symbol is one of its own."""
    marked = (f" {c} " if _is_mark(c) else c for c in text)
    return "".join(marked).split()


def _is_mark(c: str) -> bool:
    ascii_mark = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return ascii_mark or unicodedata.category(c)[0] == "P"


class WordPiece(Rows):
    """Word pieces, for a vocabulary like BERT's (1810.04805 §3): [CLS], the prompt, [SEP], [PAD].

    A word with a character that no piece
    has is [UNK] as a whole.
    """

    def __init__(self, vocabulary: Sequence[str], length: int = 77):
        vocabulary = list(vocabulary)
        needed = {PAD, UNKNOWN, START, END}
        if len(set(vocabulary)) < len(vocabulary) or not needed <= set(vocabulary):
            raise ValueError(
                "a vocabulary has each piece once, [PAD], [UNK], [CLS], [SEP] among them"
            )
        super().__init__(vocabulary, START, END, vocabulary.index(PAD), length)

    @classmethod
    def bert(cls) -> "WordPiece":
        """Uncased BERT's own, of the 30,522 pieces that ship with minisd (merges/README.md)."""
        table = gzip.decompress((files("minisd.text") / "merges" / "bert.txt.gz").read_bytes())
        return cls(table.decode().splitlines())

    def _words(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise ValueError(f"a prompt is a string, got {type(text).__name__}")
        parts = (part for part in SPECIAL.split(text) if part)
        each = ([part] if SPECIAL.fullmatch(part) else split_plain(plain(part)) for part in parts)
        return [word for words in each for word in words]

    def _pieces(self, word: str) -> list[str]:
        """The longest piece that begins the word, then the longest that goes on with it, ..."""
        if len(word) > LONGEST:
            return [UNKNOWN]
        pieces, i = [], 0
        while i < len(word):
            ends = range(len(word), i, -1)
            mark = "##" if i else ""
            j = next((j for j in ends if mark + word[i:j] in self.ids), None)
            if j is None:
                return [UNKNOWN]
            pieces.append(mark + word[i:j])
            i = j
        return pieces

    def _joined(self, pieces: list[str]) -> str:
        return " ".join(pieces).replace(" ##", "")
