"""Images of a lower resolution as conditioning."""

import pytest
import torch

from denoiselab.conditioners import Clean, LowResolution
from denoiselab.noise import TRAINING, Noise

INDEX = torch.arange(500)
CLEAN = Clean(torch.randn(500, 1, 4, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(500))
SMALL = CLEAN.images.unflatten(3, (4, 2)).unflatten(2, (2, 2)).mean((3, 5))


def noise():
    return Noise(0, INDEX, TRAINING)


def test_the_image_is_the_mean_of_its_parts():
    conditioner = LowResolution((1, 4, 8), factor=2)
    conditioner.set_held_out(lambda index: Clean(CLEAN.images[index], index))
    for cond in (conditioner.given(CLEAN), conditioner.train(CLEAN, noise()), conditioner.sample(INDEX)):
        torch.testing.assert_close(cond.image, SMALL)


def test_noise_keeps_the_variance_and_is_that_of_the_sample():
    conditioner = LowResolution((1, 4, 8), factor=2, noise=1.0, sample_noise=0.8)
    conditioner.set_held_out(lambda index: Clean(CLEAN.images[index], index))
    seen = conditioner.train(CLEAN, noise()).image
    error = seen - SMALL
    assert float(error[noise().uniform() < 0.05].std()) < 0.15 * float(error.std())  # the level differs by sample
    drawn = conditioner.sample(INDEX).image
    assert torch.equal(drawn[3:7], conditioner.sample(INDEX[3:7]).image)
    assert float((drawn - 0.6 * SMALL).std()) == pytest.approx(0.8, rel=0.05)
    torch.testing.assert_close(conditioner.given(CLEAN).image, SMALL)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factor": 3}, "factor=3: it must be at least 2 and divide 4 and 8"),
        ({"noise": 2.0}, r"noise=2.0: it must be from 0 to 1"),
        ({"shape": (2,)}, r"shape=\[2\]: it must be an image's"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        LowResolution(**{"shape": (1, 4, 8), "factor": 2, **options})


def test_an_upsampler_without_data_does_not_sample():
    with pytest.raises(ValueError, match="there are none"):
        LowResolution((1, 4, 8), factor=2).sample(INDEX)
