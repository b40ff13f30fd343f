import math

import pytest
import torch

from denoiselab.data import from_uint8, to_uint8
from denoiselab.data.augmentation import SYM6, Chain, Dequantise, HorizontalFlip, NonLeaky, Shift, resample
from denoiselab.data.loading.datamodule import augmented
from denoiselab.noise import AUGMENTING, Noise

ALL = [HorizontalFlip(), Shift(2), Dequantise(), NonLeaky(p=0.5), Chain([HorizontalFlip(), NonLeaky(p=0.9), Shift(1)])]


def images(n=64, channels=3, height=8, width=6):
    x = torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return x.contiguous(memory_format=torch.channels_last)


def noise(index, seed=3):
    return Noise(seed, index, AUGMENTING)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_a_change_is_a_function_of_seed_and_position(augmentation):
    x, index = images(), torch.arange(64)
    whole, told = augmentation(x, noise(index))
    assert whole.shape == x.shape
    assert (told is None) == (augmentation.features == 0)
    for part in (torch.arange(5), torch.arange(40, 64), torch.tensor([17])):
        some, how = augmentation(x[part], noise(index[part]))
        torch.testing.assert_close(some, whole[part], rtol=0, atol=2e-6)
        if told is not None:
            assert torch.equal(how, told[part])
            assert how.shape == (len(part), augmentation.features)
    assert not torch.equal(augmentation(x, noise(index, seed=4))[0], whole)


def test_a_flip_mirrors_half_of_the_images():
    x = images(2000, 1)
    out, _ = HorizontalFlip()(x, noise(torch.arange(2000)))
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert (mirrored | (out == x).flatten(1).all(1)).all()
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)


def test_shifts_are_uniform_and_reflect():
    x = torch.arange(5.0).expand(1, 1, 5, 5).repeat(2500, 1, 1, 1)
    out, _ = Shift(2)(x, noise(torch.arange(2500)))
    rows = {tuple(row) for row in out[:, 0, 0].tolist()}
    assert rows == {(2, 1, 0, 1, 2), (1, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 3), (2, 3, 4, 3, 2)}
    share = (out[:, 0, 0, 0] == 0).double().mean()
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2500)
    with pytest.raises(ValueError, match="pixels=5: it must be less than the sides, 5 and 5"):
        Shift(5)(x, noise(torch.arange(2500)))


def test_dequantised_bytes_fill_their_bins_and_no_other():
    x = from_uint8(torch.arange(256, dtype=torch.uint8)).repeat(400, 1)
    out, _ = Dequantise()(x, noise(torch.arange(400)))
    inner = out[:, 1:-1]
    assert torch.equal(to_uint8(inner), to_uint8(x[:, 1:-1]))
    spread = (inner - x[:, 1:-1]) * 127.5
    assert abs(spread.double().mean()) < 4 * math.sqrt(1 / 12 / spread.numel())
    assert abs(spread.double().var() - 1 / 12) < 1e-3


def map_of(rows, n=1):
    return torch.tensor([rows], dtype=torch.float64).expand(n, 3, 3)


def test_the_filter_is_orthonormal_with_six_vanishing_moments():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    for shift in range(0, 12, 2):
        assert float(taps[shift:] @ taps[: 12 - shift]) == pytest.approx(float(shift == 0), abs=1e-12)
    signs = torch.tensor([(-1.0) ** k for k in range(12)], dtype=torch.float64)
    for moment in range(6):
        assert float((signs * torch.arange(12.0).double() ** moment * taps).sum()) == pytest.approx(0, abs=1e-6)


def test_resampling_by_whole_pixels_is_exact():
    x = images(3).double()
    eye = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(resample(x, map_of(eye, 3)), x, rtol=0, atol=1e-10)
    shifted = resample(x, map_of([[1, 0, 2], [0, 1, -1], [0, 0, 1]], 3))
    torch.testing.assert_close(shifted[:, :, 1:, :-2], x[:, :, :-1, 2:], rtol=0, atol=1e-10)
    torch.testing.assert_close(shifted[:, :, 0, :-2], x[:, :, 1, 2:], rtol=0, atol=1e-10)  # the reflection
    # A filter that is not symmetric moves what it turns by a fraction of a pixel.
    smooth = torch.cos(torch.arange(32.0).double() / 6)
    field = (smooth[:, None] + 2 * smooth[None].flip(1)).expand(1, 1, 32, 32)
    turned = resample(field, map_of([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    torch.testing.assert_close(turned, torch.rot90(field, 1, (2, 3)), rtol=0, atol=0.06)


def test_resampling_follows_the_map():
    """A smooth function is seen where the map says, about the centre of the image."""
    x = torch.arange(32.0).double() - 15.5

    def field(u, v):
        return torch.cos(u / 5) + torch.sin(v / 7 + 0.3)

    v, u = torch.meshgrid(x, x, indexing="ij")
    back = [[0.7, 0.2, 1.5], [-0.1, 0.8, -2.0], [0, 0, 1]]
    seen = resample(field(u, v)[None, None], map_of(back))[0, 0]
    expected = field(0.7 * u + 0.2 * v + 1.5, -0.1 * u + 0.8 * v - 2)
    torch.testing.assert_close(seen[4:-4, 4:-4], expected[4:-4, 4:-4], rtol=0, atol=0.05)


def test_the_network_is_told_what_was_done():
    n = 4000
    x = images(1, 1, 12, 12).expand(n, 1, 12, 12)
    out, told = NonLeaky(p=0.12)(x, noise(torch.arange(n)))
    x_flip, y_flip, scale, cos, sin, along, across, right, down = told.double().unbind(1)
    still = (told[:, 2:] == 0).all(1)
    expected = torch.where((x_flip == 1)[:, None, None, None], x.flip(3), x)
    expected = torch.where((y_flip == 1)[:, None, None, None], expected.flip(2), expected)
    assert torch.equal(out[still], expected[still])
    for values, share in ((x_flip, 0.5), (y_flip, 0.06), (scale, 0.12), (sin, 0.12), (along, 0.12), (right, 0.12)):
        assert abs((values != 0).double().mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert still.double().mean() == pytest.approx(0.88**4, abs=0.04)
    torch.testing.assert_close((cos + 1).square() + sin.square(), torch.ones(n).double(), rtol=0, atol=1e-6)
    for values in (scale, right, down, (along.square() + across.square()).sqrt() * along.sign()):
        assert values[values != 0].std() == pytest.approx(1, abs=0.12)
    assert (across[along != 0] == 0).double().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(right != 0, down != 0)


def test_vertical_flips_and_rotations_can_be_left_out():
    x, n = torch.rand(200, 1, 8, 8), torch.arange(200)
    told = NonLeaky(p=0.9)(x, noise(n))[1]
    less = NonLeaky(p=0.9, turned=False)(x, noise(n))[1]
    assert told[:, [1, 4]].any(0).all()
    assert not less[:, [1, 3, 4]].any()
    assert torch.equal(less[:, [0, 2, 5, 6, 7, 8]], told[:, [0, 2, 5, 6, 7, 8]])


def test_what_the_network_is_told_is_true():
    """A blob moves, turns and grows as the nine numbers say."""
    n, side = 60, 33
    place = torch.arange(side).double() - side // 2
    v, u = torch.meshgrid(place, place, indexing="ij")
    x = torch.exp(-((u - 4).square() + (v + 2).square()) / 4).float().expand(n, 1, side, side)
    out, told = NonLeaky(p=0.8, x_flip=False, shift=0.06, scale=0.15, stretch=0.15)(x, noise(torch.arange(n)))
    for image, how in zip(out[:, 0].double(), told.double(), strict=True):
        x_flip, y_flip, scale, cos, sin, along, across, right, down = how.tolist()
        angle, stretch, direction = math.atan2(sin, cos + 1), along, 0.0
        if across:
            continue  # Karras et al. tell a stretch by w in direction r and one by -w in direction r + pi alike

        def turned(a):
            return torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()

        factor = torch.diag(torch.tensor([2 ** (0.15 * stretch), 2 ** (-0.15 * stretch)]).double())
        # The label's direction turns the picture's axes by minus itself; so does its rotation.
        forward = turned(-direction) @ factor @ turned(direction) @ turned(-angle) * 2 ** (0.15 * scale)
        start = torch.tensor([-4.0 if x_flip else 4.0, 2.0 if y_flip else -2.0]).double()
        end = forward @ start + 0.06 * side * torch.tensor([right, down]).double()
        if end.abs().max() > side // 2 - 9:
            continue
        weight = image.clamp_min(0.05) - 0.05
        centre = torch.stack(((weight * u).sum(), (weight * v).sum())) / weight.sum()
        torch.testing.assert_close(centre, end, rtol=0, atol=0.25)  # the filter is not symmetric


@pytest.mark.parametrize("options", [{"p": 1.5}, {"scale": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        NonLeaky(**options)
    with pytest.raises(ValueError, match="pixels=0"):
        Shift(0)


def test_images_of_some_classes_are_not_mirrored():
    images = torch.arange(200 * 4, dtype=torch.int64).reshape(200, 1, 1, 4).to(torch.uint8)
    labels = torch.arange(200) % 3
    batch = {"images": images, "labels": labels, "position": torch.arange(200)}
    before = augmented(batch, 0, None)["images"]
    mirrored = [
        (augmented(batch, 0, HorizontalFlip(spared))["images"] == before.flip(-1)).all((1, 2, 3))
        for spared in ([], [0, 2])
    ]
    assert 80 < mirrored[0].sum() < 120
    assert torch.equal(mirrored[1], mirrored[0] & (labels == 1))
    with pytest.raises(ValueError, match="except_classes is for an augmentation alone"):
        Chain([HorizontalFlip([1])])
