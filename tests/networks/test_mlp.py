import pytest
import torch

from denoiselab.networks import MLP, Conditioning


def awake(*arguments, **options):
    torch.manual_seed(0)
    network = MLP(*arguments, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize(("shape", "outputs"), [((2,), 1), ((5,), 2), ((1, 4, 4), 1), ((3, 4, 2), 2)])
def test_shapes_and_zero_at_the_start(shape, outputs):
    network = MLP(shape, width=16, depth=2, outputs=outputs)
    out = network(torch.randn(7, *shape), torch.rand(7) * 1000)
    assert out.shape == (7, outputs * shape[0], *shape[1:])
    assert not out.any()


def test_every_input_matters():
    network = awake((2,), width=16, num_classes=3)
    assert network.conditioning == {"class_label"}
    assert awake((2,)).conditioning == frozenset()
    x, label, classes = torch.randn(4, 2), torch.rand(4) * 1000, torch.tensor([0, 1, 2, 3])
    cond, other_classes = Conditioning(class_label=classes), Conditioning(class_label=classes.flip(0))
    out = network(x, label, cond)
    assert torch.allclose(
        network(x[2:], label[2:], Conditioning(class_label=classes[2:])), out[2:], atol=1e-5
    )  # rows do not mix
    for other in (network(x + 1, label, cond), network(x, label + 1, cond), network(x, label, other_classes)):
        assert bool(((other - out).abs() > 1e-4).any(1).all())


def test_derivatives_of_second_order_are_there_and_right():
    network = awake((2,), width=16).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    label = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: network(x, label), x)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, label).sum(0), x, create_graph=True)
    trace = jacobian.diagonal(dim1=0, dim2=2).sum()
    trace.backward()
    # All but what adds a constant to the output learns from its divergence.
    unmoved = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert unmoved <= {"head.bias", "blocks.2.out.bias"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 6}, "width=6"),
        ({"width": 4}, "width=4"),
        ({"depth": 0}, "depth=0"),
        ({"outputs": 0}, "outputs=0"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        MLP((2,), **options)
