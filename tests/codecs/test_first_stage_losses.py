"""The losses of first stages: closed forms, gradients of one backward pass and of two, codebooks, ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel

from denoiselab.codecs import (
    Adversary,
    AutoencoderKL,
    CodebookPenalty,
    KLPenalty,
    PatchDiscriminator,
    ReconstructionLoss,
    VQModel,
)
from denoiselab.codecs.adversaries import ratio
from denoiselab.noise import TRAINING, Noise

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "middle_attention": False}
SHAPE = (3, 16, 16)


def kl():
    torch.manual_seed(0)
    return AutoencoderKL(SHAPE, **SMALL, latent_channels=2, scale=1.0)


def vq(**options):
    torch.manual_seed(0)
    return VQModel(SHAPE, **SMALL, latent_channels=4, codes=16, **options)


def adversary(norm="group", **options):
    torch.manual_seed(1)
    return Adversary(PatchDiscriminator(SHAPE, channels=8, layers=2, norm=norm, groups=4), **options)


def images(n=4):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def noise(n=4, start=0):
    return Noise(0, start + torch.arange(n), TRAINING)


def test_the_sum_form_is_ldms():
    """As contperceptual.py computes it, in float64: sums over elements, divided by the batch; LPIPS at each element."""
    network, x = kl().double(), images().double()

    class Perceptual:
        def check(self, shape): ...

        def __call__(self, x, y):
            return (x - y).square().mean((1, 2, 3)).sqrt()

    loss = ReconstructionLoss(KLPenalty(0.01), reduction="sum", perceptual=Perceptual(), perceptual_weight=0.5)
    found = loss(network, x, noise().normal, 0)
    mean, log_variance = network.encode_pixels(x).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * noise().normal(network.latent_shape).double()
    y = network.decoder(network.before_decoder(z))
    rec = (x - y).abs() + 0.5 * (x - y).square().mean((1, 2, 3), keepdim=True).sqrt()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / len(x)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx((rec.sum() / len(x) + 0.01 * divergence).item(), rel=1e-5)
    assert found.parts["kl"].item() == pytest.approx(divergence.item(), rel=1e-5)
    assert found.parts["l1"].item() == pytest.approx((x - y).abs().mean().item(), rel=1e-5)


def test_a_learned_log_variance_is_that_of_the_error():
    loss = ReconstructionLoss(KLPenalty(0.0), distance="l2", learned_variance=True)
    with torch.no_grad():
        loss.log_variance.fill_(0.3)
    found = loss(kl(), images(), noise().normal, 0)
    plain = ReconstructionLoss(KLPenalty(0.0), distance="l2")(kl(), images(), noise().normal, 0).total
    assert found.total.item() == pytest.approx(plain.item() / torch.tensor(0.3).exp().item() + 0.3, rel=1e-5)
    found.total.backward()
    assert loss.log_variance.grad.item() == pytest.approx(1 - plain.item() / torch.tensor(0.3).exp().item(), rel=1e-4)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_one_backward_pass_gives_the_gradients_of_two(norm, kind):
    x = images()
    network, game = kl(), adversary(norm, loss=kind, weight=0.7)
    loss = ReconstructionLoss(KLPenalty(), reduction="sum", adversary=game)
    found = loss(network, x, noise().normal, 0)
    found.total.backward()
    one = [p.grad.clone() for p in (*network.parameters(), *game.parameters())]

    network, d = kl(), adversary(norm, loss=kind).discriminator
    made = network.train_pass(x, noise().normal)
    error = (x - made.images).abs().flatten(1).sum(1).mean()
    g = -d(made.images).mean()
    weights = [torch.autograd.grad(part, network.decoder.head.weight, retain_graph=True)[0] for part in (error, g)]
    weight = 0.7 * (weights[0].norm() / (weights[1].norm() + 1e-4)).clamp(0, 1e4)
    penalty = KLPenalty()(network, made).value
    torch.autograd.backward(error + penalty + weight * g, inputs=[*network.parameters()])
    real, fake = d(x), d(made.images.detach())
    sides = (F.relu(1 - real), F.relu(1 + fake)) if kind == "hinge" else (F.softplus(-real), F.softplus(fake))
    (0.5 * (sides[0].mean() + sides[1].mean())).backward()
    two = [p.grad for p in (*network.parameters(), *d.parameters())]
    assert found.parts["generator_weight"].item() == pytest.approx(weight.item(), rel=1e-5)
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max() + 1e-6))


def test_before_its_start_the_discriminator_costs_and_learns_nothing(monkeypatch):
    game = adversary(start=8, used_from=16)
    loss = ReconstructionLoss(KLPenalty(), adversary=game)
    alone = ReconstructionLoss(KLPenalty())(kl(), images(), noise().normal, 0)
    calls = []
    game.discriminator.register_forward_hook(lambda *_: calls.append(1))
    before = loss(kl(), images(), noise().normal, 7)
    before.total.backward()
    assert not calls
    assert before.total.item() == alone.total.item()
    assert all(not p.grad.any() for p in game.parameters())  # there for DistributedDataParallel
    between = loss(kl(), images(), noise().normal, 8)
    assert "generator" not in between.parts
    assert between.parts["discriminator"] > 0
    assert "generator" in loss(kl(), images(), noise().normal, 16).parts


def quantised(network, x):
    return network.train_pass(x, noise().normal)


@pytest.mark.parametrize(("legacy", "of_z", "of_e"), [(False, 0.25, 1.0), (True, 1.0, 0.25)])
def test_commitment_is_on_the_vectors_unless_legacy(legacy, of_z, of_e):
    network = vq()
    made = quantised(network, images())
    penalty = CodebookPenalty(legacy=legacy)
    penalty.check(network)
    value = penalty(network, made).value
    z, e = torch.autograd.grad(value, [made.kept, made.entries])
    slope = 2 * (made.kept - made.entries).detach() / made.kept.numel()
    assert torch.allclose(z, of_z * slope, atol=1e-7)
    assert torch.allclose(e, -of_e * slope, atol=1e-7)


def test_the_gradient_passes_the_codebook():
    network = vq()
    made = quantised(network, images())
    (through,) = torch.autograd.grad(made.images.sum(), made.kept, retain_graph=True)
    assert through.abs().sum() > 0
    (none,) = torch.autograd.grad(made.images.sum(), network.quantizer.codebook.weight, allow_unused=True)
    assert none is None
    assert torch.equal(made.entries, network.quantizer.codebook.weight[made.indices].permute(0, 3, 1, 2))


def test_averages_are_those_of_the_paper():
    """N = g N + (1 - g) n, m = g m + (1 - g) sum z, e = m / N (arXiv 1711.00937, A.1) from N = 1, m = e."""
    network, penalty = vq(), CodebookPenalty(learning="averages", decay=0.9)
    penalty.check(network)
    codebook = network.quantizer.codebook.weight
    assert not codebook.requires_grad
    counts, sums = torch.ones(16, dtype=torch.float64), codebook.double().clone()
    for step in range(4):
        made = quantised(network, images() * (1 + step))
        one_hot = F.one_hot(made.indices.flatten(), 16).double()
        vectors = made.kept.detach().permute(0, 2, 3, 1).flatten(0, 2).double()
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * one_hot.T @ vectors
        parts = penalty(network, made).parts
        share = one_hot.mean(0)
        assert parts["perplexity"].item() == pytest.approx(torch.special.entr(share).sum().exp().item(), rel=1e-4)
        assert parts["usage"].item() == pytest.approx((share > 0).double().mean().item())
        assert torch.allclose(codebook.double(), sums / counts[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learning", ["gradient", "averages"])
def test_dead_entries_become_vectors_of_the_batch(learning):
    network, penalty = vq(), CodebookPenalty(learning=learning, restart_below=0.999, decay=0.99)
    penalty.check(network)
    made = quantised(network, images())
    hit = torch.zeros(16, dtype=torch.bool)
    hit[made.indices.flatten()] = True
    before = network.quantizer.codebook.weight.detach().clone()
    penalty(network, made)
    after = network.quantizer.codebook.weight.detach()
    vectors = made.kept.detach().permute(0, 2, 3, 1).flatten(0, 2)
    assert 0 < hit.sum() < 16
    found = (after[~hit][:, None] == vectors).all(-1).any(-1)
    assert found.all()
    assert learning == "averages" or torch.equal(after[hit], before[hit])
    again = penalty(network, quantised(network, images())).parts["usage"]
    assert again > hit.float().mean()


def test_normalised_entries_and_latents_have_length_one():
    network = vq(normalised=True)
    made = quantised(network, images())
    for vectors in (made.kept, made.entries, network.encode_latents(network.encode_pixels(images()))):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(()), atol=1e-6)
    cosines = torch.einsum("bzhw,kz->bkhw", made.kept, F.normalize(network.quantizer.codebook.weight, dim=1))
    assert torch.equal(cosines.argmax(1), made.indices)
    assert torch.allclose(network(images()), made.images, atol=1e-5)


@pytest.mark.parametrize("codebook", [False, True])
def test_half_precision_trains(codebook):
    network = vq() if codebook else kl()
    penalty = CodebookPenalty() if codebook else KLPenalty()
    loss = ReconstructionLoss(penalty, adversary=adversary())
    loss.check(network, SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(network, images(), noise().normal, 0)
    found.total.backward()
    whole = loss(network, images(), noise().normal, 0).total
    assert found.total.item() == pytest.approx(whole.item(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PatchDiscriminator((3, 16, 16)), "layers=3: images of 16 pixels leave no logits, 24 or more do"),
        (lambda: adversary(start=8, used_from=7), "used_from=7: it must be at least start=8"),
        (lambda: adversary(weight=-1), "weight=-1: it must be at least 0"),
        (lambda: CodebookPenalty(decay=1), "decay=1: it must be at least 0 and less than 1"),
        (lambda: CodebookPenalty(legacy=True, learning="averages"), "legacy=true: it is about gradients of entries"),
        (lambda: CodebookPenalty().check(kl()), "regulariser=CodebookPenalty: it is for a VQModel"),
        (lambda: KLPenalty().check(vq()), "regulariser=KLPenalty: it is for an AutoencoderKL"),
        (lambda: adversary().check((1, 16, 16)), "adversary.discriminator: it does not fit images of"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()


class Whole(torch.nn.Module):
    """Network and loss, as Lightning wraps them."""

    def __init__(self, network, loss):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, x, numbers, images_seen):
        return self.loss(self.network, x, numbers.normal, images_seen).total


def made(codebook):
    if not codebook:
        return Whole(kl(), ReconstructionLoss(KLPenalty(), reduction="sum", adversary=adversary(start=8)))
    penalty = CodebookPenalty(learning="averages")
    network = vq()
    penalty.check(network)
    return Whole(network, ReconstructionLoss(penalty, adversary=adversary(start=8)))


def trained(module, shares, wrap=lambda module: module):
    """Three steps, the first before the discriminator's start."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    wrapped, x = wrap(module), images(8)
    for step in range(3):
        numbers = Noise(0, 8 * step + torch.arange(8)[shares], TRAINING)
        optimizer.zero_grad()
        wrapped(x[shares], numbers, 8 * step).backward()
        optimizer.step()
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def on_rank(rank, folder, codebook):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    found = trained(made(codebook), slice(rank, None, 2), DistributedDataParallel)
    torch.save({name: value.detach() for name, value in found.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("codebook", [False, True])
def test_two_ranks_train_what_one_does(codebook, tmp_path):
    on_ranks(on_rank, (tmp_path, codebook), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    one = trained(made(codebook), slice(None))
    start = dict(made(codebook).named_parameters())
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, rtol=1e-4, atol=1e-6), name
        if name in start and start[name].requires_grad and "layers.8.bias" not in name:  # hinges move it both ways
            assert not torch.equal(value, start[name]), name


def test_the_ratio_is_bounded_and_has_no_gradient():
    weight = torch.ones(3, requires_grad=True)
    found = ratio(weight.sum(), (weight * 1e-9).sum(), weight)
    assert found.item() == 1e4
    assert not found.requires_grad
