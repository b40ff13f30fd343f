import pytest
import torch
from safetensors.torch import load, load_file

from denoiselab.data import Digits
from denoiselab.evaluation import DomainClassifier, FrechetDistance, Workspace
from denoiselab.evaluation.features import classifier

METRICS = {"frechet": FrechetDistance()}


def test_classifier_is_trained_once_and_cached_by_content(tmp_path):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()

    def fit(recipe, data=train):
        return recipe.fit(data, held_out, METRICS, {}, Workspace(tmp_path, shown=False))

    def files():
        return [*tmp_path.glob("*.safetensors")]

    recipe = DomainClassifier(epochs=2)
    before = torch.get_rng_state()
    first = fit(recipe)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.facts["extractor_accuracy"] > 0.85
    assert first.metric == "fd_classifier"
    (file,) = files()
    stamp = file.stat().st_mtime_ns
    again = fit(recipe)
    assert file.stat().st_mtime_ns == stamp
    assert (again.fingerprint, again.facts) == (first.fingerprint, first.facts)
    images = held_out.images[:9]
    out = first.extractor(images)
    assert torch.equal(again.extractor(images)["features"], out["features"])
    assert (out["features"].shape, out["logits"].shape) == ((9, 64), (9, 10))
    # Other data, or another recipe: another file.
    fit(DomainClassifier(epochs=1))
    fit(recipe, train.subset(torch.arange(500)))
    assert len(files()) == 3
    # A damaged file is made anew.
    whole = file.read_bytes()
    for damaged in (whole[:1000], whole[:-5] + bytes([whole[-5] ^ 16]) + whole[-4:]):
        file.write_bytes(damaged)
        assert fit(recipe).fingerprint == first.fingerprint
        assert load_file(file).keys() == load(whole).keys()
        assert all(torch.equal(load_file(file)[name], tensor) for name, tensor in load(whole).items())


def test_a_classifier_that_diverges_is_not_kept(tmp_path):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    with pytest.raises(ValueError, match=r"evaluation\.extractor\.lr=1e\+30: .* has diverged; lower it\."):
        DomainClassifier(epochs=1, lr=1e30).fit(
            train.subset(torch.arange(300)), held_out, METRICS, {}, Workspace(tmp_path)
        )
    assert not list(tmp_path.glob("*.safetensors"))


def test_images_of_one_class_are_refused(tmp_path):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    sevens = train.subset(train.labels == 7)
    with pytest.raises(ValueError, match="all training images are of one; choose evaluation/extractor="):
        DomainClassifier().fit(sevens, held_out, METRICS, {}, Workspace(tmp_path))
    assert not list(tmp_path.iterdir())


def test_its_accuracy_is_measured_on_images_of_all_parts(tmp_path, monkeypatch):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    whole = DomainClassifier(epochs=1).fit(train, held_out, METRICS, {}, Workspace(tmp_path, shown=False))
    assert f"right on {len(held_out)} held-out images" in whole.description
    monkeypatch.setattr(classifier, "_CHECKED", 7)
    (tmp_path / "other").mkdir()
    few = DomainClassifier(epochs=1).fit(train, held_out, METRICS, {}, Workspace(tmp_path / "other", shown=False))
    places = torch.arange(7) * len(held_out) // 7
    predicted = few.extractor(held_out.images[places])["logits"].argmax(1)
    assert few.facts["extractor_accuracy"] == float((predicted == held_out.labels[places]).double().mean())
    assert "right on 7 held-out images" in few.description
