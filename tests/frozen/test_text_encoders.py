"""Text encoders against transformers' own."""

import shutil

import pytest
import torch
from frozen_models import FEATURES, LENGTH, edited, text_encoder, write_text_encoder
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

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


@torch.no_grad()
def test_an_earlier_layer_and_the_pooled_vector_are_those_of_the_model(folder, tmp_path):
    model, tokenizer = text_encoder()
    theirs = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    out = model(theirs, output_hidden_states=True)
    features, _, vector = TextEncoder(str(folder), length=LENGTH, masked=False, layer=-2, pooled=True)(TEXTS, CPU)
    torch.testing.assert_close(features, out.hidden_states[-2])
    torch.testing.assert_close(vector, out.pooler_output)
    torch.manual_seed(1)
    config = CLIPTextConfig(**{**model.config.to_dict(), "projection_dim": 3})
    projected = CLIPTextModelWithProjection(config).eval()
    projected.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    _, _, vector = TextEncoder(str(tmp_path / "text_encoder"), length=LENGTH, masked=False, pooled=True)(TEXTS, CPU)
    torch.testing.assert_close(vector, projected(theirs).text_embeds)
    assert vector.shape == (3, 3)
    for options, says in (({"layer": 0}, "layer=0: it must be -1"), ({"layer": -3}, "layer=-3: the encoder has 2")):
        with pytest.raises(ValueError, match=says):
            TextEncoder(str(folder), length=LENGTH, **options)(TEXTS, CPU)


def test_t5_has_no_vector_and_an_earlier_layer(folder, tmp_path):
    config = T5Config(vocab_size=60, d_model=6, d_kv=3, d_ff=8, num_layers=2, num_heads=2)
    torch.manual_seed(0)
    model = T5EncoderModel(config).eval()
    model.save_pretrained(tmp_path)
    options = {"tokenizer": str(folder.parent / "tokenizer"), "length": LENGTH}
    features, mask = TextEncoder(str(tmp_path), **options, layer=-2)(TEXTS, CPU)
    _, tokenizer = text_encoder()
    batch = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    torch.testing.assert_close(features[mask], theirs.hidden_states[-2][mask])
    with pytest.raises(ValueError, match=r"pooled=true: .* has no vector of its own"):
        TextEncoder(str(tmp_path), **options, pooled=True)(TEXTS, CPU)


@pytest.mark.parametrize("masked", [False, True])
def test_a_store_has_the_features_in_half_precision_and_needs_no_encoder(folder, tmp_path, masked, monkeypatch):
    options = {"length": LENGTH, "masked": masked, "pooled": True}
    features, mask, vector = TextEncoder(str(folder), **options)(TEXTS, CPU)
    TextEncoder(str(folder), **options, store=str(tmp_path)).keep(TEXTS[:2])
    first = TextEncoder(str(folder), **options, store=str(tmp_path))
    mixed = first([TEXTS[2], *TEXTS], CPU)  # of which one is not in the store
    first.keep(TEXTS)
    assert len([*tmp_path.glob("*/*.safetensors")]) == 2
    monkeypatch.setattr(TextEncoder, "_model", None)
    found = TextEncoder(str(folder), **options, store=str(tmp_path))([TEXTS[2], *TEXTS], CPU)
    for one, other in zip(found, mixed, strict=True):
        counted = mask[[2, 0, 1, 2]] if one.ndim == 3 and masked else ...
        assert torch.equal(one[counted], other[counted])
    assert torch.equal(found[1][1:], mask)
    assert torch.equal(found[2][1:], vector.half().float())
    kept = mask if masked else torch.ones_like(mask)
    assert torch.equal(found[0][1:][kept], features[kept].half().float())
    assert found[0].dtype == torch.float32
    if masked:
        assert bool((found[0][1:][~mask] == 0).all())
    monkeypatch.undo()
    other = TextEncoder(str(folder), **{**options, "length": LENGTH - 1}, store=str(tmp_path))
    assert other(["a dog"], CPU)[0].shape[1] == LENGTH - 1  # nothing of the other length is found
    file = next(tmp_path.glob("*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"store={tmp_path}: .*{file.name} is damaged .*; delete it"):
        TextEncoder(str(folder), **options, store=str(tmp_path))
    with pytest.raises(ValueError, match=rf"store={file}: is a file"):
        TextEncoder(str(folder), **options, store=str(file))


def test_texts_that_are_cut_are_counted(folder):
    assert TextEncoder(str(folder), length=LENGTH).cut([*TEXTS, "abcdef", "abcdefg"]) == 2  # with two ends


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
    shutil.copytree(folder.parent, tmp_path / "2")
    edited(tmp_path / "2" / "text_encoder" / "config.json", hidden_size=12)
    with pytest.raises(ValueError, match="does not fit its configuration: it has weights of other shapes"):
        TextEncoder(str(tmp_path / "2" / "text_encoder"), length=LENGTH)(TEXTS, CPU)
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
