import torch

from denoiselab.data import Digits
from denoiselab.evaluation import DomainClassifier


def test_classifier_is_trained_once_and_cached_by_content(tmp_path):
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    recipe = DomainClassifier(epochs=2)
    before = torch.get_rng_state()
    first = recipe.fit(train, held_out, tmp_path, shown=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.accuracy > 0.85
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    again = recipe.fit(train, held_out, tmp_path, shown=False)
    assert file.stat().st_mtime_ns == stamp
    assert (again.fingerprint, again.accuracy) == (first.fingerprint, first.accuracy)
    images = held_out.images[:9]
    assert torch.equal(again(images), first(images))
    assert first(images).shape == (9, first.dimension)
    # Other data, or another recipe: another file.
    DomainClassifier(epochs=1).fit(train, held_out, tmp_path, shown=False)
    recipe.fit(train.subset(torch.arange(500)), held_out, tmp_path, shown=False)
    assert len(list(tmp_path.iterdir())) == 3
    # A damaged file is made anew.
    file.write_bytes(file.read_bytes()[:1000])
    assert recipe.fit(train, held_out, tmp_path, shown=False).fingerprint == first.fingerprint
