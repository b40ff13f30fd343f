import math

import pytest
import torch

from denoiselab.data import HarmonicTones

RATE, LENGTH = 16_000, 1024


def tones(**options):
    return HarmonicTones("tones", (1, LENGTH), 3, **{"size": 64, "held_out": 32, **options})


def test_each_sample_of_a_tone_has_mean_0_and_variance_1():
    n = 40_000
    x = HarmonicTones("tones", (1, 16), 3).draw(n, torch.Generator().manual_seed(0)).points.double()
    fourth = x.pow(4).mean(0)
    assert x.shape == (n, 1, 16)
    assert (x.mean(0) * math.sqrt(n)).abs().max() < 4.5
    assert ((x.square().mean(0) - 1) / ((fourth - 1) / n).sqrt()).abs().max() < 4.5


def test_a_tone_has_energy_at_harmonics_of_a_fundamental_in_the_octave_of_its_label():
    train, _ = tones().load()
    spectrum = torch.fft.rfft(train.points[:, 0].double() * torch.hann_window(LENGTH, dtype=torch.float64)).abs()
    low, high = (110 * 2 ** (train.labels + end) * LENGTH / RATE for end in (0, 1))
    peak = spectrum.argmax(1)  # the fundamental: amplitudes fall with k
    assert bool(((low.floor() <= peak) & (peak <= high.ceil())).all())
    assert set(train.labels.tolist()) == {0, 1, 2}
    highest = 8 * 880 * LENGTH / RATE
    assert spectrum[:, int(highest) + 4 :].max() < 1e-2 * spectrum.max()  # nothing above the eighth, nothing aliased


def test_draws_are_a_function_of_the_seed():
    (train, held_out), (again, _), (other, _) = tones().load(), tones().load(), tones(seed=1).load()
    assert train.fingerprint == again.fingerprint != other.fingerprint
    assert (
        len({train.points[0, 0, 0].item(), held_out.points[0, 0, 0].item(), train.fresh(4, 0).points[0, 0, 0].item()})
        == 3
    )


@pytest.mark.parametrize("bad", [{"shape": (2, 64)}, {"shape": (64,)}, {"num_classes": 2}, {"size": 0}, {"seed": -1}])
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=f"data.{next(iter(bad))}="):
        HarmonicTones(**{"name": "tones", "shape": (1, 64), "num_classes": 3, **bad})
