"""Byte-level byte-pair encoding, learned on the captions of a training."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Bytes have a token each.
_FEWEST = 256


class BytePairs:
    """A tokenizer of the library `tokenizers`: bytes, and the most frequent pairs of tokens, without case.

    It has no unknown token. It is learned on the captions of the training data and kept in the run as `tokenizer.json`.

    Sources: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, arXiv 1508.07909, section
    3.2; on bytes, Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2.

    Args:
        vocabulary: Tokens, at most.
        path: File `tokenizer.json`, such as another run's; None to learn one.
        sha256: Of the file; None for any.

    Raises:
        ValueError: If the file is missing, damaged, changed or has more tokens; if `vocabulary` < 256.
    """

    def __init__(self, vocabulary: int = 8192, path: str | None = None, sha256: str | None = None) -> None:
        if vocabulary < _FEWEST:
            raise ValueError(f"vocabulary={vocabulary}: it must be at least {_FEWEST}, one token a byte.")
        if importlib.util.find_spec("tokenizers") is None:
            raise ValueError(f"vocabulary={vocabulary}: a tokenizer needs an extra: pip install denoiselab[text].")
        self.vocabulary = vocabulary
        self._tokenizer: Any = None
        self.content: str | None = None  # of the file `tokenizer.json`; None while there is no tokenizer
        if path is not None:
            self.read(Path(path).expanduser(), sha256)

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text.

        Raises:
            ValueError: If there is no tokenizer yet.
        """
        if self._tokenizer is None:
            raise ValueError(
                "conditioner.encoder.tokenizer.path=null: it is learned when a training starts; name a run's "
                "tokenizer.json."
            )
        return list(self._tokenizer.encode(text).ids)

    @property
    def sha256(self) -> str | None:
        """Of `content` in UTF-8."""
        return None if self.content is None else hashlib.sha256(self.content.encode()).hexdigest()

    def learn(self, texts: Sequence[str]) -> None:
        """Learn the pairs of texts; the same texts give the same tokenizer."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it is no help here, and warns in loaders' processes
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary, min_frequency=2, show_progress=False, initial_alphabet=alphabet
        )
        tokenizer.train_from_iterator(texts, trainer)
        self._tokenizer, self.content = tokenizer, tokenizer.to_str(pretty=True)

    def read(self, path: Path, sha256: str | None = None) -> None:
        """Read a file `tokenizer.json`."""
        from tokenizers import Tokenizer

        if not path.is_file():
            raise ValueError(f"path={path}: there is no such file; it is the tokenizer.json of a run.")
        content = path.read_bytes()
        if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise ValueError(
                f"sha256={sha256}: {path} has changed, so its tokens have other numbers; now it is {found}."
            )
        try:
            tokenizer = Tokenizer.from_str(content.decode())
        except Exception:  # the library raises this class alone
            raise ValueError(f"path={path}: it is damaged, or no file of the library tokenizers.") from None
        if (size := tokenizer.get_vocab_size()) > self.vocabulary:
            raise ValueError(f"vocabulary={self.vocabulary}: {path} has {size} tokens; give as many.")
        self._tokenizer, self.content = tokenizer, content.decode()
