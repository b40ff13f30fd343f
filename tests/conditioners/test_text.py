"""Captions as conditioning."""

import pytest
import torch

from denoiselab.conditioners import Clean, SeveralEncoders, Text
from denoiselab.noise import TRAINING, Noise

INDEX = torch.arange(5)


class Letters:
    """The first two letters as numbers."""

    masked = True

    def __init__(self):
        self.calls = []

    def __call__(self, texts, device):
        self.calls.append(list(texts))
        mask = torch.tensor([[len(text) > i for i in range(2)] for text in texts])
        letters = [[[float(ord(letter))] for letter in text.ljust(2)[:2]] for text in texts]
        return torch.tensor(letters), mask


def words(cond):
    return ["".join(map(chr, row.long().flatten().tolist())).strip() for row in cond.tokens]


def clean(captions):
    return Clean(torch.zeros(len(captions), 1), torch.zeros(len(captions), dtype=torch.int64), captions)


def test_captions_prompts_and_the_empty_text():
    text = Text(Letters(), prompts=["cd", "e"])
    assert words(text.sample(INDEX)) == ["cd", "e", "cd", "e", "cd"]
    assert text.sample(INDEX).mask.tolist() == [[True, True], [True, False]] * 2 + [[True, True]]
    assert words(text.null(INDEX)) == [""] * 5
    assert words(text.given(clean(["ab", "b"]))) == ["ab", "b"]
    assert words(text.of(["b", "ab"], torch.device("cpu"))) == ["b", "ab"]
    with pytest.raises(ValueError, match=r"cond=\[1, 2\]: give one text a sample."):
        text.of([1, 2], torch.device("cpu"))
    with pytest.raises(ValueError, match="no captions"):
        text.given(Clean(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(ValueError, match="prompts=null: captions of held-out data"):
        Text(Letters()).sample(INDEX)


def test_negative_prompts_take_the_place_of_the_null_condition():
    for prompts, negative, null in ((["a", "b"], ["x", "y"], ["x", "y", "x", "y", "x"]), (None, ["x"], ["x"] * 5)):
        assert words(Text(Letters(), prompts=prompts, negative_prompts=negative).null(INDEX)) == null
    for prompts, wrong in ((["a", "b"], ["x", "y", "z"]), (None, ["x", "y"]), (["a"], [])):
        with pytest.raises(ValueError, match=r"negative_prompts=.*: give one text for all samples, or one a prompt"):
            Text(Letters(), prompts=prompts, negative_prompts=wrong)


def test_without_prompts_samples_are_of_held_out_captions():
    text = Text(Letters())
    text.set_held_out(lambda index: clean(["ab"[i % 2] for i in index.tolist()]))
    assert words(text.sample(torch.tensor([3, 0]))) == ["b", "a"]


def test_a_vector_is_the_mean_of_the_tokens_that_count():
    text = Text(Letters(), gives=["vector"])
    assert text.names == {"vector"}
    got = text.given(clean(["ac", "b", ""]))
    assert got.vector.tolist() == [[float(ord("b"))], [float(ord("b"))], [0.0]]
    assert got.tokens is None
    both = Text(Letters(), gives=["tokens", "vector"])
    assert both.names == {"tokens", "mask", "vector"}
    assert torch.equal(both.null(INDEX).vector, text.null(INDEX).vector)


def test_captions_are_dropped_at_times():
    text = Text(Letters(), dropout=0.5)
    got = words(text.train(clean(["ab"] * 2000), Noise(0, torch.arange(2000), TRAINING)))
    assert set(got) == {"ab", ""}
    assert abs(got.count("") / 2000 - 0.5) < 0.04


def test_a_text_is_encoded_once_while_it_is_kept():
    encoder = Letters()
    text = Text(encoder, kept=2)
    for captions in (["a", "b", "a"], ["b"], ["c"], ["b", "a"]):
        assert words(text.given(clean(captions))) == captions
    assert encoder.calls == [["a", "b"], ["c"], ["a"]]


class Numbers:
    """Tokens 1, 2, ... of a text, each times a factor in `width` features."""

    def __init__(self, factor, width, length, masked=True):
        self.factor, self.width, self.length, self.masked = factor, width, length, masked

    def __call__(self, texts, device):
        row = self.factor * torch.arange(1.0, self.length + 1)[:, None].expand(-1, self.width)
        mask = torch.tensor([[len(text) > i for i in range(self.length)] for text in texts])
        return row.expand(len(texts), -1, -1), mask

    def cut(self, texts):
        return sum(len(text) > self.length for text in texts)


def test_several_encoders_are_joined_by_features_or_tokens():
    one, two = Numbers(1, 2, 3), Numbers(10, 3, 3, masked=False)
    tokens, mask, vector = SeveralEncoders({"one": one, "two": two})(["a", "abc"], torch.device("cpu"))
    assert tokens[0].tolist() == [[i, i, 10 * i, 10 * i, 10 * i] for i in (1, 2, 3)]
    assert mask.all()  # the second's padding counts
    assert vector.tolist() == [[1, 1, 10, 10, 10], [2, 2, 20, 20, 20]]
    joined = SeveralEncoders({"one": one, "two": two}, "tokens", ["two"])
    tokens, mask, vector = joined(["a"], torch.device("cpu"))
    assert tokens[0].tolist() == [*([i, i, 0] for i in (1, 2, 3)), *([10 * i] * 3 for i in (1, 2, 3))]
    assert mask.tolist() == [[True, False, False, True, True, True]]
    assert vector.tolist() == [[10, 10, 10]]
    assert joined.cut(["abcd", "a"]) == 1
    assert Text(joined, gives=["tokens", "vector"]).of(["a"], torch.device("cpu")).vector.tolist() == [[10, 10, 10]]
    for arguments, says in (
        (({},), "encoders={}: name at least one"),
        (({"one": one}, "tokens", ["three"]), "there is no encoder three"),
    ):
        with pytest.raises(ValueError, match=says):
            SeveralEncoders(*arguments)
    with pytest.raises(ValueError, match="join=features: the encoders give 3, 4 tokens"):
        SeveralEncoders({"one": one, "two": Numbers(1, 2, 4)})(["a"], torch.device("cpu"))
