"""Scores of arrays and folders, against the program's own and from every form of images."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import denoiselab
from denoiselab import choices
from denoiselab.evaluation.features.extractors import ImageExtractor, NetworkFeatures
from denoiselab.evaluation.metrics.frechet import frechet_distance
from denoiselab.evaluation.metrics.statistics import GaussianStatistics


class Pixels(ImageExtractor):
    """Features that are means of quarters of an image."""

    name, layers = "pixels", frozenset({"features"})

    def extractor(self, layers, train, held_out, work):
        class Means(torch.nn.Module):
            def forward(self, images):
                return {"features": torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)}

        return NetworkFeatures(self.name, "0" * 64, Means(), 1, {}, {}, "")


def images(n, seed, scale=255):
    return torch.randint(0, scale + 1, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_every_form_of_the_same_images_has_the_same_score(tmp_path):
    samples, reference = images(40, 0, 200), images(60, 1)
    folder = tmp_path / "samples"
    folder.mkdir()
    for number, image in enumerate(samples):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:06d}.png")
    Image.fromarray(np.zeros((90, 90), np.uint8)).save(folder / "grid.png")
    (folder / "samples.json").write_text("{}")
    np.savez(tmp_path / "samples.npz", images=samples.permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "samples.npy", samples.permute(0, 2, 3, 1).numpy())
    forms = [samples, samples.numpy(), samples.permute(0, 2, 3, 1).numpy(), folder]
    forms += [tmp_path / "samples.npz", str(tmp_path / "samples.npy")]
    found = [denoiselab.score(form, reference, extractor=Pixels(), cache=tmp_path / "cache") for form in forms]
    assert all(records == found[0] for records in found)
    ours, theirs = GaussianStatistics(4), GaussianStatistics(4)
    for statistics, data in ((ours, samples), (theirs, reference)):
        statistics.update(torch.nn.functional.adaptive_avg_pool2d(data.float() / 255, 2).flatten(1))
    first = found[0][0]
    assert first.value == pytest.approx(frechet_distance(ours, theirs), rel=1e-6)
    assert (first.metric, first.n, first.reference_n, first.extractor) == ("fd_pixels", 40, 60, "pixels")
    assert (first.lower_is_better, first.extractor_sha256, len(first.reference_sha256)) == (True, "0" * 64, 64)
    assert 0 < first.standard_error < first.value


def test_a_data_set_by_name_and_its_file_of_statistics(tmp_path):
    train, _ = choices.build("data", "digits").load()
    extractor = denoiselab.build("evaluation/extractor", "classifier", epochs=1)
    samples = train.stored(torch.arange(200))
    options = {"extractor": extractor, "metrics": ["frechet", "precision_recall"], "cache": tmp_path}
    own = denoiselab.score(samples, "digits", **options)
    assert {record.metric.partition("_infinity")[0] for record in own} >= {"fd_classifier", "precision_classifier"}
    assert own[0].reference == "digits"
    assert own[0].reference_n == len(train)
    worse = denoiselab.score(255 - samples, "digits", **options)
    assert worse[0].value > 2 * own[0].value
    noise = denoiselab.score(images(200, 3), "digits", **options)
    assert noise[0].value > own[0].value


def test_a_file_of_statistics_is_a_reference(tmp_path):
    samples, reference = images(40, 0, 200), images(60, 1)
    first = denoiselab.score(samples, reference, extractor=Pixels(), cache=tmp_path)
    (file,) = tmp_path.glob("reference-*.safetensors")
    again = denoiselab.score(samples, file, extractor=Pixels(), cache=tmp_path / "other")
    assert [record.value for record in again] == [record.value for record in first]
    assert (again[0].reference_n, again[0].reference_sha256) == (60, first[0].reference_sha256)


def test_points_are_scored_by_distances_between_projections(tmp_path):
    draw = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    (near,) = denoiselab.score(draw[:250], draw[250:], cache=tmp_path)
    (far,) = denoiselab.score(draw[:250] + 3, draw[250:].numpy(), cache=tmp_path)
    assert near.metric == "sliced_w1"
    assert 0 < near.standard_error < 0.2
    assert far.value == pytest.approx(3 * math.sqrt(2) * 2 / math.pi, abs=0.15)  # the mean of |cos| is 2 / pi
    assert near.value < 0.2


@pytest.mark.parametrize(
    ("given", "reference", "options", "sentence"),
    [
        (images(9, 0), "digitz", {}, "reference=digitz: no such folder or file, and no data set of conf/data."),
        ("nowhere", images(9, 0), {}, "images=nowhere: no such folder or file."),
        (images(9, 0).float(), images(9, 0), {}, "images: an array of shape [9, 1, 8, 8] of float32; allowed"),
        (images(9, 0), torch.zeros(5, 1, 4, 4, dtype=torch.uint8), {}, "reference: its samples have shape [1, 4, 4]"),
        (images(9, 0), images(9, 1), {"metrics": ["frechett"]}, "metrics=frechett: unknown; did you mean 'frechet'?"),
        (images(9, 0), images(9, 1), {"extractor": "inceptoin"}, "extractor=inceptoin: unknown; did you"),
        (images(9, 0), images(9, 1), {"extractor": Pixels(), "metrics": ["kernel"]}, "metrics: kernel: 9 images"),
        (images(9, 0), "none.npz", {}, "reference=none.npz: there is no such file."),
        (None, images(9, 0), {}, "images: it is of type NoneType; allowed are folders"),
        (images(9, 0), {"a": 1}, {}, "reference: it is of type dict; allowed are folders"),
        (np.array(["a", "b"]), images(9, 0), {}, "images: it is an array of <U1; allowed are folders"),
        (np.array([{}]), images(9, 0), {}, "images: it is an array of object; allowed are folders"),
        (images(9, 0), images(9, 1), {"reference_n": -3}, "reference_n=-3: it must be a whole number of at least 1."),
        (images(9, 0), images(9, 1), {"extractor": 3}, "extractor=3: it must be a name"),
        (images(9, 0), images(9, 1), {"metrics": 3}, "metrics=3: it must be a name of conf/metric"),
        (images(9, 0), images(9, 1), {"device": "cud"}, "device='cud': this machine has no such device"),
        (
            images(9, 0),
            images(9, 1),
            {"metric_options": {"kernel": {}}},
            "metric_options: 'kernel' is none of metrics=",
        ),
        (
            *(images(9, 0), images(9, 1), {"metrics": "kernel", "metric_options": {"kernel": {"block_sice": 2}}}),
            "metric_options.kernel.block_sice=2: unknown option; did you mean 'metric_options.kernel.block_size'? "
            "KernelDistance takes: blocks, block_size, seed.",
        ),
    ],
)
def test_what_cannot_be_scored_gets_a_sentence(given, reference, options, sentence, tmp_path):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        denoiselab.score(given, reference, cache=tmp_path, **{"extractor": Pixels(), **options})
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("option", ["images", "reference"])
def test_a_damaged_file_gets_a_sentence(option, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04broken")
    given = {"images": images(9, 0), "reference": images(9, 1), option: tmp_path / "broken.npz"}
    with pytest.raises(ValueError, match=f"^{option}=.*broken.npz: it is damaged"):
        denoiselab.score(**given, extractor=Pixels(), cache=tmp_path)


def test_a_metric_takes_options_and_a_built_data_set_is_a_reference(tmp_path):
    options = {"metrics": ["kernel"], "extractor": Pixels(), "cache": tmp_path}
    with pytest.raises(ValueError, match=r'metric_options=\{"kernel": \{"block_size": \.\.\.\}\} sets'):
        denoiselab.score(images(40, 0), images(60, 1), **options)
    few = {"kernel": {"block_size": 20}}
    data = denoiselab.build("data", "digits")
    own, named = (denoiselab.score(images(40, 0), one, metric_options=few, **options)[0] for one in (data, "digits"))
    assert math.isfinite(own.value)
    assert (own.value, own.reference_n) == (named.value, named.reference_n)


def test_absent_weights_are_asked_for_by_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="InceptionV3"):
        denoiselab.score(images(9, 0), images(9, 1), cache=tmp_path)
