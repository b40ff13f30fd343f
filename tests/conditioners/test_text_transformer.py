"""A text encoder that is trained with the denoiser."""

import pytest
import torch

from denoiselab.conditioners import Clean, Text, TextTransformer
from denoiselab.frozen import BytePairs
from denoiselab.noise import TRAINING, Noise

CPU = torch.device("cpu")


class Letters:
    """A token a letter."""

    vocabulary = 26

    def __call__(self, text):
        return [ord(letter) - ord("a") for letter in text]


def transformer(length=6):
    torch.manual_seed(0)
    return TextTransformer(Letters(), width=8, depth=2, heads=2, head_features=4, length=length)


def clean(captions):
    return Clean(torch.zeros(len(captions), 1), torch.zeros(len(captions), dtype=torch.int64), captions)


def test_tokens_end_and_the_empty_text_is_one_token_of_its_own():
    encoder = transformer()
    features, mask = encoder(["ab", "", "abcdefgh"], CPU)
    assert mask.sum(1).tolist() == [3, 1, 6]  # the end counts, and a text that is too long is cut
    assert features.dtype == torch.float32
    assert encoder.cut(["ab", "abcde", "abcdef", ""]) == 1
    assert not torch.allclose(features[1, 0], encoder(["a"], CPU)[0][0, 0])


def test_padding_changes_nothing():
    long, short = transformer(6), transformer(4)
    short.load_state_dict({k: v[:4] if "positions" in k else v for k, v in long.state_dict().items()})
    torch.testing.assert_close(long(["ab"], CPU)[0][:, :3], short(["ab"], CPU)[0][:, :3])
    torch.testing.assert_close(long(["ab", "abcdef"], CPU)[0][:1], long(["ab"], CPU)[0])


def test_a_text_trains_it_and_keeps_no_features():
    text = Text(transformer(), dropout=0.5, gives=["tokens", "vector"])
    cond = text.train(clean(["ab", "c", "ab"] * 4), Noise(0, torch.arange(12), TRAINING))
    assert cond.vector.shape == (12, 8)
    cond.vector.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in text.module.parameters())
    before = text.of(["ab"], CPU).tokens
    with torch.no_grad():
        text.module.transformer.positions.weight.add_(1)
    assert not torch.allclose(before, text.of(["ab"], CPU).tokens)
    rows = text.of(["ab", "c", "ab"], CPU)
    assert torch.equal(rows.tokens[0], rows.tokens[2])
    assert torch.equal(rows.mask.sum(1), torch.tensor([3, 2, 3]))


def test_a_frozen_encoder_is_not_trained():
    frozen = transformer().requires_grad_(False)
    frozen.trained = False
    assert Text(frozen).module is None


def test_a_tokenizer_is_a_function_of_its_texts_and_reads_any_text(tmp_path):
    texts = ["red apple", "green apple", "red circle", "apple pie"] * 2
    one, two = BytePairs(300), BytePairs(300)
    one.learn(texts)
    two.learn(texts)
    assert one.content == two.content
    assert one("RED apple") == one("red apple")
    assert len(one("apple")) < 5
    assert 6 <= len(one("日本")) < 9  # bytes: there is no unknown token
    file = tmp_path / "tokenizer.json"
    file.write_text(one.content, encoding="utf-8")
    again = BytePairs(300, str(file), one.sha256)
    assert again("green pie") == one("green pie")
    assert again.sha256 == one.sha256
    for arguments, says in (
        ((300, str(tmp_path / "no.json")), "no.json: there is no such file"),
        ((256, str(file)), "vocabulary=256: .* has .* tokens"),
        ((300, str(file), "0" * 64), "sha256=0+: .* has changed"),
        ((255,), "vocabulary=255: it must be at least 256"),
    ):
        with pytest.raises(ValueError, match=says):
            BytePairs(*arguments)
    file.write_text("{}")
    with pytest.raises(ValueError, match="it is damaged"):
        BytePairs(300, str(file))
    with pytest.raises(ValueError, match=r"tokenizer.path=null: it is learned when a training starts"):
        BytePairs(300)("a")
