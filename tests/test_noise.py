import pytest
import torch
from scipy import stats

from denoiselab.noise import Noise, philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), 7, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        ((ONES,) * 4, (ONES,) * 2, 7, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
        ((0, 0, 0, 0), (0, 0), 10, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, 10, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            10,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers_of_random123(counter, key, rounds, expected):
    even, odd = philox([torch.tensor([c]) for c in counter], key, rounds)
    assert tuple(int(word) & ONES for word in (even[0], odd[0], even[1], odd[1])) == expected


def test_value_depends_on_seed_index_and_draw_alone():
    whole = Noise(3, torch.arange(10))
    first = [whole.normal((3, 5)), whole.uniform((2,)), whole.normal((7,))]
    for part in torch.randperm(10, generator=torch.Generator().manual_seed(0)).split(3):
        noise = Noise(3, part)
        for expected in (first[0], first[1], first[2]):
            got = noise.uniform((2,)) if expected is first[1] else noise.normal(expected.shape[1:])
            assert torch.equal(got, expected[part])


def test_streams_differ():
    index = torch.arange(4)
    draws = [Noise(seed, index, family).normal((8,)) for seed in (0, 1, 2**32, 2**62) for family in range(4)]
    again = Noise(0, index)
    again.normal((8,))
    draws.append(again.normal((8,)))
    draws.append(Noise(0, index + 2**32).normal((8,)))
    flat = torch.stack(draws).flatten(1)
    for i in range(len(flat)):
        for j in range(i):
            assert not torch.isclose(flat[i], flat[j]).any()


def test_nodes_differ_by_all_that_draws_differ_by():
    """Family, seed, index, number, and whether they are shared; and no node is a draw."""
    index, x = torch.arange(4), torch.zeros(4, 8)
    noises = [Noise(seed, index, family) for seed in (0, 2**62) for family in range(4)]
    shared = [Noise(0, index * 3, family).shared(3) for family in range(4)]
    draws = [noise.node(number, x) for noise in (*noises, *shared) for number in (0, 1, 2**29 - 1)]
    draws += [noise.normal((8,)) for noise in (*noises, *shared)]
    draws += [Noise(0, index + 4).node(0, x)]
    each = torch.stack(draws).flatten(0, 1)
    assert len(each.unique(dim=0)) == len(each)
    with pytest.raises(ValueError, match=f"number={2**29}: it must be from 0"):
        Noise(0, index).node(2**29, x)


@pytest.mark.parametrize("family", [0, 1])
def test_nodes_of_training_and_sampling_stay(family):
    """Where 0.1 had them: draws from 2^30 on."""
    noise = Noise(3, torch.arange(4), family)
    noise.draw = 2**30 + 17
    assert torch.equal(noise.normal((8,)), Noise(3, torch.arange(4), family).node(17, torch.zeros(4, 8)))


def test_distribution():
    z = Noise(0, torch.arange(2000)).normal((101,)).double()
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    u = Noise(0, torch.arange(2000)).uniform((101,))
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    # No correlation between neighbouring indices, elements or draws: each is N(0, 1/n) without any.
    later = Noise(0, torch.arange(2000))
    later.normal((101,))
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z, later.normal((101,)).double())):
        assert abs((a * b).mean()) * a.numel() ** 0.5 < 4
        assert abs(((a**2 - 1) * (b**2 - 1)).mean() / 2) * a.numel() ** 0.5 < 4


def test_every_dtype_sees_the_same_numbers():
    index = torch.arange(3)
    single = Noise(0, index).normal((5,))
    assert torch.equal(Noise(0, index).normal((5,), torch.float64), single.double())
