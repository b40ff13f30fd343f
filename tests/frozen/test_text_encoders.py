"""Text encoders against transformers' own."""

import shutil

import pytest
import torch
from frozen_models import FEATURES, LENGTH, edited, text_encoder, write_text_encoder
from safetensors.torch import load_file, save_file

from denoiselab.frozen import TextEncoder

TEXTS = ["a dog", "", "a very long text of many letters"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_encoder(tmp_path_factory.mktemp("pipeline"))


@torch.no_grad()
def test_features_are_those_of_the_model(folder):
    model, tokenizer = text_encoder()
    theirs = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    for masked in (False, True):
        features, mask = TextEncoder(str(folder), length=LENGTH, masked=masked)(TEXTS, CPU)
        told = {"attention_mask": theirs.attention_mask} if masked else {}
        assert features.shape == (3, LENGTH, FEATURES)
        torch.testing.assert_close(features, model(theirs.input_ids, **told).last_hidden_state)
        assert torch.equal(mask, theirs.attention_mask.bool())
    assert mask.sum(1).tolist() == [6, 2, LENGTH]


def test_it_can_be_read_while_a_model_is_rehearsed_without_memory(folder):
    with torch.device("meta"):
        features, _ = TextEncoder(str(folder), length=LENGTH)(TEXTS, torch.device("meta"))
    assert bool(features.isfinite().all())


def test_what_is_no_text_encoder_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="path=/nowhere: does not exist"):
        TextEncoder("/nowhere")
    with pytest.raises(ValueError, match=r"tokenizer=/nowhere: there is no tokenizer_config.json"):
        TextEncoder(str(folder), tokenizer="/nowhere")
    with pytest.raises(ValueError, match="at most 8 tokens"):
        TextEncoder(str(folder), length=9)(TEXTS, CPU)
    with pytest.raises(ValueError, match="have changed"):
        TextEncoder(str(folder), length=LENGTH, sha256="0" * 64)(TEXTS, CPU)
    for number, (change, says) in enumerate(
        [
            (lambda weights: weights.pop(sorted(weights)[-1]), "does not fit its configuration: it lacks"),
            (lambda weights: None, "cannot be read"),
        ]
    ):
        copy = tmp_path / str(number) / "text_encoder"
        shutil.copytree(folder.parent, copy.parent)
        weights = load_file(copy / "model.safetensors")
        change(weights)
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        if number:
            (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:100])
        with pytest.raises(ValueError, match=says):
            TextEncoder(str(copy), length=LENGTH)(TEXTS, CPU)
    edited(tmp_path / "1" / "text_encoder" / "config.json", hidden_size=None)
    with pytest.raises(ValueError, match="no hidden_size"):
        TextEncoder(str(copy))


def test_weights_that_are_no_real_numbers_are_refused_where_they_are_taken(folder, tmp_path):
    """Indices of positions, which older files hold, are not weights."""
    shutil.copytree(folder.parent, tmp_path / "it")
    copy = tmp_path / "it" / "text_encoder"
    weights = load_file(copy / "model.safetensors")
    position_ids = torch.arange(LENGTH)[None]
    name = next(name for name in weights if name.endswith("layers.1.mlp.fc2.weight"))
    for kind in (torch.float16, torch.int64, torch.float8_e4m3fn):
        state = {**weights, name: (4 * weights[name]).to(kind), "text_model.embeddings.position_ids": position_ids}
        for write in (
            lambda state: save_file(state, copy / "model.safetensors", {"format": "pt"}),
            lambda state: torch.save(state, copy / "pytorch_model.bin"),
        ):
            (copy / "model.safetensors").unlink(missing_ok=True)
            write(state)
            encoder = TextEncoder(str(copy), length=LENGTH)
            if kind is torch.float16:
                assert encoder(TEXTS, CPU)[0].shape == (3, LENGTH, FEATURES)
                continue
            with pytest.raises(ValueError, match=rf"path={copy}: '{name}' is of {str(kind)[6:]}, where real numbers"):
                encoder(TEXTS, CPU)
