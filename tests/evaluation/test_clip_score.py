"""CLIPScore: its definition, an independent computation, a frontier of texts, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from frozen_models import edited, text_encoder
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from denoiselab.evaluation import CLIPFolder, CLIPScore, Layer, Workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    encoder, tokenizer = text_encoder()
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=encoder.config.to_dict(), vision_config=vision, projection_dim=5)
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def layer(images, texts, **options):
    return Layer(None, images, texts=lambda before: texts[before], **options)


def test_the_score_is_that_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 6, generator=generator)
    texts = {before: torch.randn(40, 6, generator=generator) for before in ("", "A photo depicts ")}
    for formula, before, of in (
        ("clip_score", "A photo depicts ", lambda c: 2.5 * c.clamp_min(0)),
        ("cosine", "", lambda c: c),
    ):
        found = CLIPScore(formula).scores(layer(images, texts), Layer(None, None))[formula]
        each = of(cosine_similarity(images.double(), texts[before].double()))
        assert found.value == pytest.approx(float(each.mean()), abs=1e-12)
        assert found.standard_error == pytest.approx(float(each.std()) / math.sqrt(40), rel=0.03)
        assert found.influences.n == 40
    none = CLIPScore().scores(Layer(None, images), Layer(None, None))["clip_score"]
    assert (math.isnan(none.value), none.reason) == (True, "samples are of no text")
    with pytest.raises(ValueError, match="formula=max: it must be one of clip_score, cosine"):
        CLIPScore("max")


@torch.no_grad()
def test_features_are_those_of_transformers(folder, tmp_path):
    features = CLIPFolder(str(folder)).extractor(frozenset(), None, None, Workspace(tmp_path))
    model = CLIPModel.from_pretrained(folder).eval()
    images = torch.randint(0, 256, (3, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    process = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pixels = process([np.asarray(image.permute(1, 2, 0)) for image in images], return_tensors="pt")["pixel_values"]
    out = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    assert float((features(images)["features"] - out).abs().max()) < 0.02  # PIL rounds between its two passes
    assert float(out.std()) > 0.1
    _, tokenizer = text_encoder()
    texts = ["a dog", "seven", "a dog"]
    tokens = tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt")
    wanted = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    found = features.texts(texts)
    cosines = cosine_similarity(found, out)
    assert torch.allclose(cosines, (wanted.logits_per_image / model.logit_scale.exp()).diagonal(), atol=1e-5)
    assert features.title("clip_score") == "clip_score_clip_8_8"


def test_a_frontier_of_texts_has_it(folder, tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENOISELAB_ALLOW", "frozen_models.")
    sizes = {"width": 8, "heads": 2, "depth": 1, "head_features": 4, "length": 6, "tokenizer.vocabulary": 260}
    options = [f"conditioner.encoder.{name}={value}" for name, value in sizes.items()]
    options += ["data._target_=frozen_models.CaptionedDigits", "conditioner=text_transformer", "traceback=false"]
    options += ["debug=fast_dev_run", "network=dit_tiny", "network.depth=1", "network.width=16", "network.heads=2"]
    options += ["evaluation/extractor=clip_folder", f"evaluation.extractor.path={folder}", "evaluation.samplers=[ddim]"]
    options += ["evaluation.metrics=[clip_score,frechet]", "evaluation.nfe=[2]", "evaluation.num_samples=8"]
    options += ["logger=none", "evaluation.diversity=false", f"paths.run_dir={tmp_path / 'run'}"]
    result = invoke("train.py", *options)
    assert result.code == 0, result.err
    record, *_ = json.loads((tmp_path / "run" / "frontier.json").read_text())
    score = record["scores"]["clip_score_clip_8_8"]
    assert 0 <= score["value"] <= 2.5
    assert score["standard_error"] >= 0
    assert record["extractor_sha256"] == CLIPFolder(str(folder)).check_weights(frozenset())
    assert record["n"] == 8


def test_what_does_not_fit_is_refused(folder, tmp_path, invoke):
    with pytest.raises(
        ValueError, match=r"evaluation\.extractor\.path=.*: has no config\.json; name a folder of a CLIP"
    ):
        CLIPFolder(str(tmp_path))
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="is of the kind None; it must be a clip"):
        CLIPFolder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="it cannot be read"):
        CLIPFolder(str(tmp_path)).extractor(frozenset(), None, None, Workspace(tmp_path))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edited(tmp_path / "config.json", projection_dim=7)
    with pytest.raises(ValueError, match="it cannot be read: its weights do not fit its configuration"):
        CLIPFolder(str(tmp_path)).extractor(frozenset(), None, None, Workspace(tmp_path))
    result = invoke("train.py", "evaluation.metrics=[clip_score]")
    assert (
        "clip_score reads texts, which DomainClassifier does not; choose evaluation/extractor=clip_folder"
        in result.last
    )
