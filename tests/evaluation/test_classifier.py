import torch

from denoiselab.data import Digits
from denoiselab.evaluation import DomainClassifier, FrechetDistance

METRICS = {"frechet": FrechetDistance()}


def test_classifier_is_trained_once_and_cached_by_content(tmp_path):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()

    def fit(recipe, data=train):
        return recipe.fit(data, held_out, METRICS, {}, tmp_path, shown=False)

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
    file.write_bytes(file.read_bytes()[:1000])
    assert fit(recipe).fingerprint == first.fingerprint
