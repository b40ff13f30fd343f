"""Inpainting, noise levels of low resolutions, and conditioners together."""

import pytest
import torch

from denoiselab.conditioners import ClassLabel, Clean, Combined, Inpainting, LowResolution, SemanticMap
from denoiselab.networks import Conditioning
from denoiselab.noise import TRAINING, Noise

SHAPE = (1, 8, 8)


def clean(count=64):
    images = torch.linspace(-0.5, 0.5, count)[:, None, None, None].expand(count, *SHAPE)
    return Clean(images, torch.arange(count) % 3)


def noise(index):
    return Noise(5, index, TRAINING)


def test_masks_are_functions_of_the_sample_and_hide_what_they_cover():
    conditioner, data = Inpainting(SHAPE, hidden=-1.0, whole=0.25), clean()
    image = conditioner.train(data, noise(torch.arange(64))).image
    mask, shown = image[:, :1], image[:, 1:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(shown, torch.where(mask > 0, torch.tensor(-1.0), data.images))
    whole = (mask.flatten(1).mean(1) == 1).float().mean()
    assert 0.1 < float(whole) < 0.45  # of 64, with probability 1/4
    rows = torch.tensor([40, 3])
    own = Clean(data.images[rows], data.labels[rows])
    assert torch.equal(conditioner.train(own, noise(rows)).image, image[rows])


def test_a_hole_is_where_it_is_asked_for():
    conditioner = Inpainting(SHAPE, mask_first=False, known=-1.0, hole=[0.25, 0.0, 0.75, 0.5])
    mask = conditioner.given(clean(2)).image[:, 1]
    expected = -torch.ones(8, 8)
    expected[2:6, :4] = 1
    assert torch.equal(mask, expected.expand(2, 8, 8))


def test_levels_of_noise_are_told():
    conditioner = LowResolution(SHAPE, factor=2, noise=0.5, sample_noise=0.2, levels=6)
    cond = conditioner.train(
        Clean(torch.zeros(600, *SHAPE), torch.zeros(600, dtype=torch.int64)), noise(torch.arange(600))
    )
    assert cond.class_label.unique().tolist() == list(range(6))
    for level in range(6):
        found = cond.image[cond.class_label == level].std(correction=0)
        assert abs(float(found) - 0.1 * level) < 0.02
    conditioner.set_held_out(lambda index: Clean(torch.zeros(len(index), *SHAPE), index))
    assert conditioner.sample(torch.arange(3)).class_label.tolist() == [2, 2, 2]
    assert conditioner.given(clean(2)).class_label.tolist() == [0, 0]


def test_parts_are_joined_and_keep_the_image_where_there_is_no_null():
    parts = {"label": ClassLabel(3), "image": Inpainting(SHAPE, hole=[0.0, 0.0, 0.5, 0.5])}
    conditioner = Combined(parts)
    conditioner.set_held_out(lambda index: Clean(torch.zeros(len(index), *SHAPE), index % 3))
    index = torch.arange(4)
    cond, null = conditioner.sample(index), conditioner.null(index)
    assert conditioner.names == {"class_label", "image"}
    assert (null.image, null.class_label.tolist()) == (None, [3] * 4)
    assert torch.equal(null.filled(cond).image, cond.image)
    assert Conditioning().filled(cond) == Conditioning()
    assert conditioner.of([2, 0], torch.device("cpu")).image.shape == (2, 2, 8, 8)
    with pytest.raises(ValueError, match="classes are whole numbers from 0 to 2"):
        conditioner.of([7], torch.device("cpu"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Combined({}), "at least one is needed"),
        (lambda: Combined({"a": ClassLabel(3), "b": ClassLabel(2)}), "two of them give class_label"),
        (lambda: Inpainting((2,)), "it must be an image's"),
        (lambda: Inpainting(SHAPE, hidden=2.0), "hidden=2.0: it must be from -1 to 1"),
        (lambda: Inpainting(SHAPE, known=0.5), "known=0.5: it must be 0 or -1"),
        (lambda: Inpainting(SHAPE, whole=-1), "whole=-1: it must be from 0 to 1"),
        (lambda: Inpainting(SHAPE, hole=[0.5, 0, 0.5, 1]), "it must be top, left, bottom and right"),
        (lambda: LowResolution(SHAPE, levels=4), "there must be at least 2, noise=0.0 above 0"),
        (lambda: SemanticMap(SHAPE, 3, factor=3), "factor=3: it must be at least 1 and divide 8"),
        (lambda: SemanticMap(SHAPE, 0), "classes=0: it must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
