"""Objectives of flow maps: optima in closed form, forward derivatives through networks, what is refused."""

import pytest
import torch
from configurations import build
from oracles import F64
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from denoiselab import parameterizations
from denoiselab.app.building.checks import check_model
from denoiselab.app.building.starting import with_second_time
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.errors import BadInput
from denoiselab.interop.diffusers.unet import unet2d_config
from denoiselab.model import Model
from denoiselab.networks import MLP, Conditioning, DDPMUNet, DiT, Dropout, NCSNpp, UNet1D, UViT
from denoiselab.noise import Noise
from denoiselab.objectives import ImprovedMeanFlow, MeanFlow, Shortcut
from denoiselab.objectives.flow_maps import mean_velocity
from denoiselab.objectives.level_distributions import LossHistory, UniformTime
from denoiselab.schedules import Flow, VPLinear
from denoiselab.schedules.base import like
from denoiselab.trained import batch_loss

MEAN, STD, PATH = 0.3, 0.5, Flow(1e-6)


class Given(Noise):
    """Uniform numbers and normal ones that a test has chosen, in the order of their use."""

    def __init__(self, uniforms, eps):
        super().__init__(0, torch.arange(len(eps)))
        self.uniforms, self.eps = list(uniforms), eps

    def uniform(self, shape=()):
        return self.uniforms.pop(0)

    def like(self, x):
        return self.eps


class GaussianMap(nn.Module):
    """The exact mean velocity of a Gaussian along straight lines, plus functions with weights of zero."""

    second_time = True

    def __init__(self, std=STD):
        super().__init__()
        self.std, self.weights = std, nn.Parameter(torch.zeros(4, dtype=F64))

    def forward(self, x, label, cond=Conditioning(), between=None):
        t, h = like(label, x), like(between, x)
        here, there = (torch.hypot((1 - place) * self.std, place) for place in (t, t - h))
        instant = (t - (1 - t) * self.std**2) / here**2 * (x - (1 - t) * MEAN) - MEAN
        # (x_t - x_r) / h without the difference of near numbers: (here - there) / h in closed form.
        grown = ((2 * t - h) + (2 * t - h - 2) * self.std**2) / (here + there)
        u = torch.where(h == 0, instant, (x - (1 - t) * MEAN) * grown / here - MEAN)
        w = self.weights
        return u + w[0] + w[1] * x + w[2] * t * x + w[3] * h


def mirrored(objective, network, uniforms):
    """The gradient over pairs of (x0, eps) with one x_t, whose conditional velocities have the exact one as mean."""
    generator = torch.Generator().manual_seed(0)
    t = objective.times(PATH, Given([u.clone() for u in uniforms], uniforms[0]))[0]
    x0, eps = (torch.randn(len(t), 1, dtype=F64, generator=generator) for _ in range(2))
    a, s = like(1 - t, x0), like(t, x0)
    x = a * x0 + s * eps
    x0_mean = MEAN + a * STD**2 * (x - a * MEAN) / (a**2 * STD**2 + s**2)
    other = 2 * x0_mean - x0
    pair, noises = torch.cat((x0, other)), torch.cat((eps, (x - a * other) / s))
    denoiser = Denoiser(network, PATH, parameterizations.velocity, ScaledTime(1.0))
    loss = objective(denoiser, pair, Given([torch.cat((u, u)) for u in uniforms], noises))
    return torch.autograd.grad(loss.double().sum(), network.weights)[0], loss


def draws(count, n=64):
    generator = torch.Generator().manual_seed(1)
    return [0.02 + 0.96 * torch.rand(n, dtype=F64, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("kind", [MeanFlow, ImprovedMeanFlow])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_exact_flow_map_has_no_gradient(kind, share):
    """Sample by sample the conditional velocity is not the ODE's; the mean over those of one x_t is."""
    objective = kind(UniformTime(), share=share, power=0.0)
    gradient, loss = mirrored(objective, GaussianMap(), draws(3))
    assert float(loss.detach().max()) > 0.1
    assert gradient.abs().max() < 1e-10
    assert mirrored(objective, GaussianMap(std=0.6), draws(3))[0].abs().max() > 0.1


def test_shortcuts_of_an_exact_flow_map_have_no_error():
    """Of that of any distribution: which one, only the samples with r = t say."""
    size, place, t = draws(3)
    objective = Shortcut(UniformTime(), share=1.0, steps=8)
    for std in (STD, 0.6):
        loss = mirrored(objective, GaussianMap(std), [t, size * 2 / 3, place, t])[1]  # sizes 1 and 1/2
        assert float(loss.detach().max()) < 1e-20


def test_shortcuts_of_the_least_size_are_two_steps_of_the_velocity():
    told = []

    class Told(GaussianMap):
        def forward(self, x, label, cond=Conditioning(), between=None):
            told.append(between[0].item())
            return super().forward(x, label, cond, between)

    place, t = draws(2)
    for size in (0.99, 0.5):  # 1/4 and 1/2
        mirrored(Shortcut(UniformTime(), share=1.0, steps=8), Told(), [t, 0 * t + size, place, t])
    assert told == [0, 0, 0.25, 0.25, 0.25, 0.5]


def test_sizes_of_shortcuts_lie_on_nested_grids():
    t, r = Shortcut(UniformTime(), share=1.0, steps=16).times(Flow(), Noise(0, torch.arange(2000)))
    parts = 1 / (t - r)
    assert {*parts.tolist()} == {1.0, 2.0, 4.0, 8.0}
    assert torch.equal(r * parts, (r * parts).round())
    assert float(r.min()) == 0
    assert float(t.max()) == 1
    assert abs(float((parts == 8).double().mean()) - 0.25) < 0.05


NETWORKS = {
    "mlp": lambda: MLP((6,), 16, 2, second_time=True),
    "dit": lambda: DiT((1, 4, 4), 2, 16, 2, 2, second_time=True),
    "uvit": lambda: UViT((1, 4, 4), 2, 16, 3, 2, second_time=True),
    "ddpm": lambda: DDPMUNet((1, 4, 4), 8, (1, 2), 1, (1,), 0.3, 4, second_time=True),
    "ncsnpp": lambda: NCSNpp((1, 4, 4), 8, (1, 2), 1, (1,), second_time=True),
    "unet_1d": lambda: UNet1D((1, 16), 8, (1, 2), (4,), 1, 1, (1,), 2, groups=4, second_time=True),
}


def woken(name):
    """A network of which no layer is zero, or nearly, with the masks of a training step."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        if parameter.abs().max() < 1e-4:
            nn.init.normal_(parameter, std=0.2)
    for number, layer in enumerate(part for part in network.modules() if isinstance(part, Dropout)):
        layer.key = torch.arange(16).view(8, 2) + 100 * number
    x0 = torch.randn(8, *{"mlp": (6,), "unet_1d": (1, 16)}.get(name, (1, 4, 4)))
    return network, Denoiser(network, Flow(), parameterizations.velocity, ScaledTime(1.0)), x0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_derivative_is_the_one_that_two_reverse_passes_give(name):
    """Through attention and dropout, of some rows of the batch alone, and the loss trains all weights."""
    network, denoiser, x0 = woken(name)
    objective, path = MeanFlow(UniformTime(), share=0.6, power=0.0), denoiser.schedule
    noise = Noise(4, torch.arange(8))
    t, r = objective.times(path, noise)
    assert 0 < int((r < t).sum()) < 8
    eps = noise.like(x0)
    x, v = like(1 - t, x0) * x0 + like(t, x0) * eps, eps - x0
    there = path.level(r)

    def u(x, t):
        return mean_velocity(denoiser, x, path.level(t).towards(there))

    with sdpa_kernel(SDPBackend.MATH):
        slope = torch.autograd.functional.jvp(u, (x, t), (v, torch.ones_like(t)))[1]
    want = (u(x, t) - v + like(t - r, x) * slope).square().flatten(1).sum(1)
    loss = objective(denoiser, x0, Noise(4, torch.arange(8)))
    assert torch.allclose(loss, want, rtol=1e-3, atol=1e-4)
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_before_training_the_second_time_changes_nothing(name):
    assert not any(parameter.any() for parameter in NETWORKS[name]().between[-1].parameters())
    network, _, x = woken(name)
    label, between = torch.linspace(0.2, 0.9, 8), torch.linspace(0, 0.2, 8)
    plain = network(x, label)
    told = network(x, label, Conditioning(), between)
    assert torch.equal(told[:1], plain[:1])  # None is 0
    assert not torch.equal(told[1:], plain[1:])


def test_mixed_precision_takes_the_derivative_in_full():
    """On a CPU convolutions in bfloat16 have no forward-mode products."""
    gradients = []
    for mixed in (False, True):
        network, denoiser, x0 = woken("ddpm")
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = ImprovedMeanFlow(UniformTime(), share=0.5)(denoiser, x0, Noise(0, torch.arange(8)))
        loss.sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.1


def test_activations_that_are_computed_again_give_the_same_gradients():
    found = []
    for levels in ((), "all"):
        torch.manual_seed(0)
        network = DiT((1, 4, 4), 2, 16, 2, 2, checkpoint_levels=levels, second_time=True)
        denoiser = Denoiser(network, Flow(), parameterizations.velocity, ScaledTime(1.0))
        MeanFlow(UniformTime(), share=0.5)(denoiser, torch.ones(8, 1, 4, 4), Noise(0, torch.arange(8))).sum().backward()
        found.append(network.head.weight.grad)
    assert torch.allclose(*found, rtol=1e-6, atol=1e-9)


def test_a_batch_in_parts_has_the_same_losses():
    for name in ("mean_flow", "improved_mean_flow", "shortcut"):
        _, denoiser, x0 = woken("mlp")
        objective = build("objective", name)
        whole = objective(denoiser, x0, Noise(0, torch.arange(8)))
        parts = [objective(denoiser, x0[one], Noise(0, torch.arange(8)[one])) for one in (slice(0, 3), slice(3, 8))]
        assert torch.allclose(whole, torch.cat(parts), rtol=1e-4, atol=1e-6)


def test_guidance_replaces_the_velocity_where_the_condition_was_kept():
    torch.manual_seed(0)
    network = MLP((2,), 16, 1, num_classes=3, second_time=True)
    nn.init.normal_(network.head.weight)
    denoiser = Denoiser(network, Flow(), parameterizations.velocity, ScaledTime(1.0))
    model = Model(denoiser, ClassLabel(3), Identity((2,)))
    objective = MeanFlow(UniformTime(), guidance=2.0, kept=0.25, interval=(0.0, 0.5))
    batch_loss(model, objective)
    cond = Conditioning(class_label=torch.tensor([0, 3, 1]))
    x, v, here = torch.ones(3, 2), torch.zeros(3, 2), Flow().level(torch.tensor([0.3, 0.3, 0.8], dtype=F64))
    found = objective.velocity(denoiser, x, here, v, Noise(0, torch.arange(3)), cond)
    null = Conditioning(class_label=torch.full((3,), 3))
    want = -1.25 * mean_velocity(denoiser, x, here, null) + 0.25 * mean_velocity(denoiser, x, here, cond)
    assert torch.allclose(found[0], want[0])
    assert want[0].abs().min() > 1e-3
    assert not found[1:].any()


def test_guidance_of_shortcuts_is_that_of_their_least_steps():
    torch.manual_seed(0)
    network = MLP((2,), 16, 1, num_classes=3, second_time=True)
    for part in network.parameters():
        nn.init.normal_(part, std=0.3)
    path = Flow()
    denoiser = Denoiser(network, path, parameterizations.velocity, ScaledTime(1.0))
    objective = Shortcut(UniformTime(), steps=8, guidance=1.5)
    batch_loss(Model(denoiser, ClassLabel(3), Identity((2,))), objective)
    cond, null = (Conditioning(class_label=torch.tensor(labels)) for labels in ([0, 3, 1], [3, 3, 3]))
    x, t, size = torch.randn(3, 2), torch.tensor([0.5, 0.5, 0.5], dtype=F64), torch.tensor([0.25, 0.25, 0.5], dtype=F64)
    found = objective.target(denoiser, x, t, t - size, x, cond)

    def guided(x, t):
        one, none = (mean_velocity(denoiser, x, path.level(t), given) for given in (cond, null))
        return none + 1.5 * (one - none)

    first = guided(x, t)
    want = (first + guided(x - 0.125 * first, t - 0.125)) / 2
    assert torch.allclose(found[:2], want[:2], atol=1e-6)
    objective.guidance, objective.needs_null = 1.0, False
    plain = objective.target(denoiser, x, t, t - size, x, cond)
    assert torch.equal(plain[2], found[2])
    assert torch.allclose(plain[1], found[1], atol=1e-6)  # the condition was dropped
    assert (plain[0] - found[0]).abs().max() > 1e-3


def model(network, path=None, conditioner=None):
    path = path or Flow()
    denoiser = Denoiser(network, path, parameterizations.velocity, ScaledTime(1.0))
    return Model(denoiser, conditioner or Unconditional(), Identity((2,)))


REFUSED = {
    "one time": (lambda: model(MLP((2,))), "mean_flow", [], "give network.second_time=true"),
    "two times": (
        lambda: model(MLP((2,), second_time=True)),
        "flow_matching",
        [],
        "network.second_time=true: objective",
    ),
    "bent path": (lambda: model(MLP((2,), second_time=True), VPLinear()), "mean_flow", [], "choose schedule=flow"),
    "no null": (
        lambda: model(MLP((2,), second_time=True)),
        "mean_flow",
        ["guidance=2"],
        "evaluates the null condition",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_one_sentence(why):
    make, name, options, words = REFUSED[why]
    with pytest.raises(BadInput, match=words):
        check_model(make(), build("objective", name, *options))
    check_model(model(MLP((2,), second_time=True)), build("objective", "shortcut"))


def test_numbers_out_of_range_are_refused():
    for options in ({"share": 0.0}, {"power": -1.0}, {"offset": 0.0}, {"kept": 1.0}, {"interval": [0.5, 0.5]}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MeanFlow(UniformTime(), **options)
    with pytest.raises(ValueError, match="power of 2"):
        Shortcut(UniformTime(), steps=12)
    with pytest.raises(ValueError, match="LossHistory"):
        MeanFlow(LossHistory(steps=10)).check(model(MLP((2,), second_time=True)).denoiser)


def test_a_network_starts_from_one_without_a_second_time():
    torch.manual_seed(1)
    former, new = MLP((2,)), model(MLP((2,), second_time=True)).denoiser
    nn.init.normal_(former.head.weight)
    new.load_state_dict(with_second_time(new, {f"network.{key}": value for key, value in former.state_dict().items()}))
    x, label = torch.randn(3, 2), torch.rand(3)
    assert torch.equal(new.network(x, label, Conditioning(), torch.rand(3)), former(x, label))
    assert with_second_time(new, new.state_dict()).keys() == new.state_dict().keys()


def test_other_code_bases_have_no_such_network():
    with pytest.raises(ValueError, match="second_time=True: UNet2DModel supports only False"):
        unet2d_config(DDPMUNet, {"shape": (1, 8, 8), "second_time": True})
