import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from denoiselab.networks.resampling import (
    Averages,
    FIRDownsample,
    FIRDownsampleConv,
    FIRUpsample,
    FIRUpsampleConv,
    Repeats,
    filter_2d,
)

TAPS = ([1, 3, 3, 1], [1, 1], [1.0, 2.0, 5.0, 1.0, 0.5, 0.0])


def scipys(x, taps, up, down, gain):
    """scipy.signal.upfirdn along both axes, cut to where the filter's centre lies on the image."""
    h = gain * np.asarray(taps, dtype=float) / np.sum(taps)
    for axis in (-1, -2):
        size = x.shape[axis] * up // down
        if up == 2:
            y = scipy.signal.upfirdn(h, x, up=2, axis=axis)
            x = np.take(y, range(len(taps) // 2 - 1, len(taps) // 2 - 1 + size), axis=axis)
        else:
            y = scipy.signal.upfirdn(h[::-1], x, axis=axis)  # ours correlates on the way down, as convolutions do
            x = np.take(y, range(len(taps) // 2, len(taps) // 2 + 2 * size, 2), axis=axis)
    return x


@pytest.mark.parametrize("taps", TAPS)
def test_filters_are_scipys(taps):
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    down = FIRDownsample(taps).double()(x)
    up = FIRUpsample(taps).double()(x)
    # The layers hold their taps in float32; those here are exact in it but for the sum.
    assert np.allclose(down, scipys(x.numpy(), taps, 1, 2, 1), atol=1e-6)
    assert np.allclose(up, scipys(x.numpy(), taps, 2, 1, 2), atol=1e-6)


def test_two_equal_taps_are_averages_and_repeats():
    x = torch.randn(2, 3, 4, 6)
    assert torch.allclose(FIRDownsample([1, 1])(x), Averages()(x))
    assert torch.equal(FIRUpsample([1, 1])(x), Repeats()(x))


def test_up_and_down_keep_constants_inside():
    x = torch.full((1, 1, 8, 8), 3.0)
    assert torch.allclose(FIRDownsample()(x)[..., 1:-1, 1:-1], torch.tensor(3.0))
    assert torch.allclose(FIRUpsample()(x)[..., 2:-2, 2:-2], torch.tensor(3.0))


@pytest.mark.parametrize("taps", [TAPS[0], TAPS[2]])
def test_convolutions_see_the_filtered_image_beyond_its_border(taps):
    x = torch.randn(2, 3, 6, 4)
    wide = F.pad(x, (4, 4, 4, 4))
    down, up = FIRDownsampleConv(3, 5, taps), FIRUpsampleConv(3, 5, taps)
    # Filter the padded image to stride 1 by reading the two phases of its downsampling.
    rows = [torch.stack([FIRDownsample(taps)(wide.roll((-i, -j), (2, 3))) for j in (0, 1)], -1) for i in (0, 1)]
    filtered = torch.stack(rows, -3).flatten(-2).flatten(2, 3)
    out = F.conv2d(filtered, down.conv.weight, down.conv.bias)
    # Pixel (0, 0) of `filtered` lies between pixels 0 and 1 of `wide`; a kernel reads one before the image, and two.
    assert torch.allclose(down(x), out[..., 3::2, 3::2][..., :3, :2], atol=1e-5)
    doubled = F.conv2d(FIRUpsample(taps)(wide), up.conv.weight, up.conv.bias, padding=1)
    assert torch.allclose(up(x), doubled[..., 8:-8, 8:-8], atol=1e-5)


def test_bad_taps_are_refused():
    for taps, says in (([1, 2, 1], "even"), ([], "even"), ([1, -1], "sum to 0")):
        with pytest.raises(ValueError, match=says):
            filter_2d(taps)
    with pytest.raises(ValueError, match="at least 4 taps"):
        FIRUpsampleConv(1, 1, [1, 1])


def test_checkpoints_hold_no_filters():
    assert not FIRDownsample().state_dict()
    assert FIRUpsampleConv(1, 1).state_dict().keys() == {"conv.weight", "conv.bias"}
