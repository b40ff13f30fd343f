"""Power-function averages and their reconstruction against a few lines of EDM2's formulas in float64."""

import functools

import numpy as np
import pytest
import torch

from denoiselab.errors import BadInput
from denoiselab.training.ema import EMA, RAW, Constant, HalfLife, Names
from denoiselab.training.power_ema import WIDEST, PowerFunction, Term, exponent, mix
from denoiselab.training.snapshots import Basis, Snapshots, basis, found

WIDTHS = {"ema": 0.1, "narrow": 0.05}


NODES, MASSES = np.polynomial.legendre.leggauss(200)


@functools.cache
def gamma_of(width):
    """EDM2, algorithm 2: roots of a polynomial."""
    return np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max()


def product(t_a, w_a, t_b, w_b):
    """The inner product of two profiles by quadrature, not by the closed form."""
    (a, b), end = (gamma_of(w_a), gamma_of(w_b)), min(t_a, t_b)
    tau = (NODES + 1) / 2 * end
    return ((a + 1) / t_a * (tau / t_a) ** a * (b + 1) / t_b * (tau / t_b) ** b * MASSES).sum() * end / 2


def coefficients_of(terms, t, width):
    """EDM2, algorithm 3, with the sum of its code's coefficients, 1."""
    a = np.array([[product(*x, *y) for y in terms] for x in terms])
    x = np.linalg.solve(a, np.array([product(*y, t, width) for y in terms]))
    return x / x.sum()


@pytest.mark.parametrize("width", [0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 0.288, WIDEST])
def test_exponent_is_the_root_of_edm2(width):
    gamma = exponent(width)
    assert gamma == pytest.approx(gamma_of(width), rel=1e-9, abs=1e-9)
    assert ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5 == pytest.approx(width, rel=1e-12)


@pytest.mark.parametrize("width", [0, -0.1, 0.3, float("nan")])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(ValueError, match="sigma_rel="):
        PowerFunction(width)


def weights_at(images):
    """Parameters on a path of a training: they settle, with noise."""
    generator = torch.Generator().manual_seed(images)
    return torch.tensor([1.0, -2.0, 3.0]) * (1 - 0.8 ** (images / 800)) + 0.05 * torch.randn(3, generator=generator)


def train(folder, steps, snapshots=None, start=0, ema=None):
    """Averages after steps of the given numbers of images."""
    module = torch.nn.ParameterDict({"w": weights_at(0)})
    ema = ema or EMA({name: PowerFunction(width) for name, width in WIDTHS.items()}, snapshots, folder)
    ema.start(module)
    ema.resume(start)
    for images in steps:
        start += images
        with torch.no_grad():
            module["w"].copy_(weights_at(start))
        ema.update(module, start, images)
    return ema, start


def test_the_average_follows_its_profile():
    """theta is constant in a step, so the average is sum theta_k ((t_k / t)^(gamma+1) - (t_k-1 / t)^(gamma+1))."""
    steps = [10] * 60 + [25] * 40
    ema, end = train(None, steps)
    ends = np.cumsum(steps)
    for name, width in WIDTHS.items():
        power = (np.array([0, *ends]) / end) ** (gamma_of(width) + 1)
        expected = (np.diff(power)[:, None] * np.stack([weights_at(int(t)).double().numpy() for t in ends])).sum(0)
        assert ema.averages[name]["w"].double().numpy() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15, 0.2])
def test_reconstruction_is_that_of_edm2(width, tmp_path):
    ema, end = train(tmp_path, [10] * 400, Snapshots(every_images=200, keep=20))
    moments = found(tmp_path)
    assert moments == [*range(200, 4001, 200)]
    terms = [(t, w) for t in (end, *moments[:-1]) for w in WIDTHS.values()]
    expected = coefficients_of(terms, end, width)
    own = mix([Term(*term) for term in terms], end, width)
    assert own.coefficients.numpy() == pytest.approx(expected, abs=1e-6)
    files = [torch.load(tmp_path / f"{t:012d}.pt", weights_only=True)["averages"] for t in moments[:-1]]
    stored = np.stack([a[n]["w"].double().numpy() for a in (ema.averages, *files) for n in WIDTHS])
    found_weights = basis(end, ema.widths, tmp_path).average(width, ema.averages)["w"]
    assert found_weights.double().numpy() == pytest.approx(expected @ stored, abs=1e-6)
    pairs = [*zip(terms, expected, strict=True)]
    errors = [product(*x, *y) * a * b for x, a in pairs for y, b in pairs]
    cross = sum(2 * a * product(*x, end, width) for x, a in pairs)
    norm = product(end, width, end, width)
    assert own.error == pytest.approx(((sum(errors) - cross + norm) / norm) ** 0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("dtype", "width", "bound"),
    [("float32", 0.03, 1e-4), ("float32", 0.07, 3e-6), ("float32", 0.2, 1e-3), ("float16", 0.07, 1e-4)],
)
def test_reconstruction_is_near_a_tracked_average(dtype, width, bound, tmp_path):
    """The distance as a fraction of the weights' norm."""
    ema, end = train(tmp_path, [10] * 1000, Snapshots(every_images=100, dtype=dtype))
    tracked, _ = train(None, [10] * 1000, ema=EMA({"x": PowerFunction(width)}))
    rebuilt = basis(end, ema.widths, tmp_path).average(width, ema.averages)["w"]
    exact = tracked.averages["x"]["w"]
    assert (rebuilt - exact).norm() < bound * exact.norm()
    assert torch.equal(basis(end, ema.widths, tmp_path).average(0.1, ema.averages)["w"], ema.averages["ema"]["w"])


@pytest.mark.parametrize("length", [1000, 3200, 3201, 6500, 100_000])
def test_the_number_of_snapshots_is_bounded(length, tmp_path):
    rule = Snapshots(every_images=100, keep=32)
    train(tmp_path, [50] * (length // 50), rule)
    there = found(tmp_path)
    assert len(there) <= 32
    assert len(there) >= min(16, length // 100)
    assert there == rule.planned(length, 50)
    assert len({*np.diff([0, *there])}) == 1


def test_interrupted_and_continued_keeps_the_same_snapshots(tmp_path):
    rule = Snapshots(every_images=100, keep=8)
    straight, end = train(tmp_path / "a", [20] * 150, rule)
    stopped, at = train(tmp_path / "b", [20] * 73, rule)
    saved = {name: {"w": average["w"].clone()} for name, average in stopped.averages.items()}
    train(tmp_path / "b", [20] * 20, rule, at, stopped)  # after the checkpoint, until it was killed
    (tmp_path / "b" / ".000000001500.pt.x.tmp").touch()
    again = EMA({name: PowerFunction(width) for name, width in WIDTHS.items()}, rule, tmp_path / "b")
    again.averages = saved
    _, there = train(tmp_path / "b", [20] * 77, rule, at, again)
    assert there == end
    assert found(tmp_path / "a") == found(tmp_path / "b")
    for width in (0.05, 0.08, 0.15):
        one, two = (basis(end, e.widths, e.folder).average(width, e.averages)["w"] for e in (straight, again))
        assert torch.equal(one, two)


def test_a_snapshot_that_cannot_be_written_names_the_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"/file/0{9}100\.pt: cannot be written \((File exists|Not a dir).*ema.snapshots=null"
    ):
        train(tmp_path / "file", [20] * 5, Snapshots(every_images=100))


def test_names_of_widths(tmp_path):
    ema, end = train(tmp_path, [10] * 400, Snapshots(every_images=100))
    names = Names(["ema", "narrow", RAW], basis(end, ema.widths, tmp_path))
    assert [names.chosen(asked, "weights") for asked in (None, "raw", "ema@0.070", "ema@.2")] == [
        "ema", "raw", "ema@0.07", "ema@0.2",
    ]  # fmt: skip
    least, greatest = names.basis.reach()
    assert 0.02 < least < 0.04
    assert 0.2 < greatest < 0.28
    for asked in ("ema@0.01", "ema@0.28", "ema@0.5", "ema@0"):
        with pytest.raises(BadInput, match=rf"weights={asked[:5]}.*widths from {least:.3g} to {greatest:.3g}"):
            names.chosen(asked, "weights")
    few = Names(["ema", RAW], Basis(64, {"ema": 0.2, "narrow": 0.05}, [32], tmp_path))
    with pytest.raises(
        BadInput, match=r"1 snapshots reconstruct it with an error of 20%, and 5% .*ema@0.05, ema@0.2\)"
    ):
        few.chosen("ema@0.11", "weights")
    with pytest.raises(BadInput, match=r"did you mean 'narrow'.*allowed: ema, narrow, raw, ema@<width>"):
        names.chosen("narow", "weights")
    alone = Names(["ema", RAW], Basis(end, ema.widths, folder=tmp_path / "none"))
    assert alone.chosen("ema@0.10", "weights") == "ema"  # the tracked one
    with pytest.raises(BadInput, match=r"no snapshots in .*none.*allowed: ema@0.05, ema@0.1"):
        alone.chosen("ema@0.2", "weights")
    with pytest.raises(BadInput, match=r"no averages by a power function.*ema=power"):
        Names(["ema", RAW]).chosen("ema@0.1", "weights")


@pytest.mark.parametrize("harm", ["damaged", "missing", "other"])
def test_a_snapshot_that_cannot_be_used_is_named(harm, tmp_path):
    ema, end = train(tmp_path, [10] * 400, Snapshots(every_images=100))
    path, of = tmp_path / "000000002000.pt", basis(end, ema.widths, tmp_path)
    if harm == "damaged":
        content = path.read_bytes()
        path.write_bytes(
            content.replace(
                *(
                    average["w"].numpy().tobytes()
                    for average in (torch.load(path, weights_only=True)["averages"]["ema"], {"w": torch.ones(3)})
                )
            )
        )
    elif harm == "missing":
        path.unlink()
    else:
        torch.save({"averages": {name: {"v": torch.zeros(3)} for name in WIDTHS}}, path)
    with pytest.raises(BadInput, match="000000002000"):
        of.average(0.15, ema.averages)


def test_averages_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="two have the same sigma_rel"):
        EMA({"a": PowerFunction(0.1), "b": PowerFunction(0.1)})
    with pytest.raises(ValueError, match=r"ema\.snapshots"):
        EMA({"a": HalfLife(100), "b": Constant()}, Snapshots())
    for wrong in ({"every_images": 0}, {"keep": 1}, {"dtype": "int8"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Snapshots(**wrong)
