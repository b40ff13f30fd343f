"""Every operator of conf/task/operator against the matrix that it is."""

import math

import pytest
import torch
import yaml
from configurations import CONF, names
from oracles import F64

from denoiselab.inverse import (
    AveragePool,
    Bicubic,
    Blur,
    Box,
    CompressedSensing,
    GaussianBlur,
    Grey,
    Identity,
    LinearOperator,
    Mask,
    MotionBlur,
    RandomPixels,
    check_adjoint,
    conjugate_gradients,
    minimal_residuals,
)
from denoiselab.nodes.instantiate import check, construct

SHAPE = (3, 8, 4)
KERNEL = {"kernel": [[0.1, 0.2, 0.0], [0.0, 0.5, 0.3]]}
GIVEN = {"blur": KERNEL, "grey": {"weights": [0.3, 0.6, 0.1]}, "motion_blur": {"length": 3, "angle": 30}}


class Product(LinearOperator):
    """A user's: the call alone, of a matrix of rank 3."""

    def __init__(self):
        super().__init__()
        draws = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(0), dtype=F64)
        self.matrix = draws[0, :, :5].T @ draws[1]

    def forward(self, x):
        return x.flatten(1) @ self.matrix.to(x).T


def made(name):
    if name == "user":
        return Product().bind(SHAPE)
    node = {"operator": yaml.safe_load((CONF / "task" / "operator" / f"{name}.yaml").read_text()) | GIVEN.get(name, {})}
    check(node)
    return construct(node["operator"], "operator").bind(SHAPE)


def dense(operator):
    """The matrix `(M, D)`, from its columns A e_i."""
    size = math.prod(SHAPE)
    return operator(torch.eye(size, dtype=F64).reshape(size, *SHAPE)).flatten(1).T


NAMES = [*(name for name in names("task/operator") if name != "mask"), "user"]


@pytest.mark.parametrize("name", NAMES)
def test_operators_are_their_matrices(name):
    operator = made(name)
    matrix = dense(operator)
    shape = operator.shape_of(SHAPE)
    assert math.prod(shape) == len(matrix)
    y = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    rows = y.flatten(1)
    assert operator.adjoint(y).shape == (4, *SHAPE)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), rows @ matrix)
    v = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=F64)
    solved = operator.gram_inverse(y, v.reshape(-1, *[1] * len(shape)), 0.3)
    gram = v[:, None, None] * (matrix @ matrix.T) + 0.3 * torch.eye(len(matrix), dtype=F64)
    torch.testing.assert_close(solved.flatten(1), torch.linalg.solve(gram, rows))
    torch.testing.assert_close(solved[1:2], operator.gram_inverse(y[1:2], torch.tensor(1.0, dtype=F64), 0.3))
    cut = 0.01 if isinstance(operator, Blur) else 1e-8
    inverse = torch.linalg.pinv(matrix, rtol=cut)
    torch.testing.assert_close(operator.pinv(y).flatten(1), rows @ inverse.T, atol=1e-7, rtol=1e-7)
    check_adjoint(operator, SHAPE)
    assert operator(torch.zeros(2, *SHAPE)).dtype == operator.adjoint(y.float()).dtype == torch.float32
    assert operator.gram_inverse(y.float(), v.float().reshape(-1, *[1] * len(shape)), 0.3).dtype == torch.float32


def test_what_operators_measure():
    x = torch.arange(96.0, dtype=F64).reshape(1, *SHAPE)
    assert AveragePool(2).bind(SHAPE)(x)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5], [18.5, 20.5], [26.5, 28.5]]
    assert Grey().bind(SHAPE)(x)[0, 0, 0].tolist() == [32, 33, 34, 35]
    known = torch.zeros(8, 4)
    known[0, 1] = known[7, 3] = 1
    assert Mask(known).bind(SHAPE)(x).tolist() == [[[1, 31], [33, 63], [65, 95]]]
    assert Box(0.5).bind(SHAPE).known.sum() == 32 - 4 * 2
    assert RandomPixels(0.25).bind(SHAPE).known.sum() == 8
    assert CompressedSensing(0.5).bind(SHAPE)(x).shape == (1, 48)
    reduced = torch.nn.functional.interpolate(x, (4, 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(Bicubic(2).bind(SHAPE)(x), reduced)
    right = Blur([[0.0, 0.0, 1.0]]).bind(SHAPE)(x)  # a kernel moves a point to where its weight lies
    torch.testing.assert_close(right, x.roll(1, -1))
    point = torch.zeros(1, 1, 9, 9, dtype=F64)
    point[..., 4, 4] = 1
    seen = GaussianBlur(0.8).bind((1, 9, 9))(point)[0, 0]
    assert float(seen[4, 6] / seen[4, 4]) == pytest.approx(math.exp(-((2 / 0.8) ** 2) / 2))
    line = MotionBlur(4.0, 90.0).bind((1, 9, 9))(point)[0, 0]
    assert float(line[:, 4].sum()) == pytest.approx(1)
    assert line[2:7, 4].tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=1e-3)
    rising = MotionBlur(4.0, 45.0).bind((1, 9, 9))(point)[0, 0]
    assert float(rising[3, 5]) > 0.1 > float(rising[3, 3])


def test_conjugate_gradients_stop_by_row():
    """A solved row is exact and stays; a row where M is not positive stays as it was before."""
    m = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=F64)
    b = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]], dtype=F64)
    sign = torch.tensor([[1.0], [1.0], [-1.0]], dtype=F64)
    products = []
    x = conjugate_gradients(lambda p: products.append(1) or sign * (p @ m), b, 30)
    torch.testing.assert_close(x[0], torch.linalg.solve(m, b[0]))
    assert x[1:].tolist() == [[0, 0], [0, 0]]
    assert len(products) == 30


@pytest.mark.parametrize("iterations", [1, 2, 4, 6, 9])
def test_minimal_residuals_are_those_of_the_krylov_space(iterations):
    """Of matrices that are neither symmetric nor positive; more iterations than unknowns change nothing."""
    draws = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    m, b = draws[:, 1:], draws[:, 0].clone()
    b[2] = 0
    x = minimal_residuals(lambda p: (m @ p[..., None])[..., 0], b, iterations)
    powers = torch.stack([torch.linalg.matrix_power(m, k) @ b[..., None] for k in range(min(iterations, 6))], -1)[
        :, :, 0
    ]
    for i in range(2):
        best = torch.linalg.lstsq(m[i] @ powers[i], b[i, :, None]).solution
        torch.testing.assert_close(x[i], (powers[i] @ best)[:, 0])
    assert x[2].tolist() == [0] * 6


class Identical(AveragePool):
    """The adjoint of a released code's super-resolution, which is not one."""

    def adjoint(self, y):
        return self.pinv(y)


class Affine(Identity):
    def forward(self, x):
        return x + 1


class Short(Identity):
    def adjoint(self, y):
        return y[..., :2]


class Doubled(Identity):
    def pinv(self, y):
        return 2 * y


class Halved(Identity):
    def gram_inverse(self, y, v, s2):
        return y / 2 / (v + s2)


class Cut(Identity):
    def gram_inverse(self, y, v, s2):
        return y[..., :2]


class Flat(Identity):
    def pinv(self, y):
        return y.flatten(1)


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (Doubled(), r"operator=Doubled: its pseudo-inverse is not that of its call, as A\^\+ A changes .* by 1 of it"),
        (
            Halved(),
            r"operator=Halved: its gram_inverse\(y, v, s2\) is not \(v A A\^T \+ s2\)\^-1 y, .* differs from y by 50",
        ),
        (Cut(), r"operator=Cut: gram_inverse\(y\) has the shape \[2, 3, 8, 2\], and y has \[2, 3, 8, 4\]"),
        (Flat(), r"operator=Flat: A\^\+ y has the shape \[2, 96\], and x has \[2, 3, 8, 4\]"),
        (Identical(2), r"operator=Identical: its adjoint is not that of its call, as <A x, y> = .* and <x, A\^T y>"),
        (Affine(), "operator=Affine: its adjoint is not that of its call"),
        (Short(), r"operator=Short: A\^T y has the shape \[2, 3, 8, 2\], and x has \[2, 3, 8, 4\]"),
        (AveragePool(3), r"factor=3: samples have the shape \[3, 8, 4\]; .* multiples of 3"),
        (Grey([0.5, 0.5]), "give one for each of the 3 channels"),
        (Mask(torch.eye(4)), r"known: its shape is \[4, 4\], and samples have \[3, 8, 4\]"),
        (Product(), r"operator=Product: it does not take samples of shape \[3, 8, 4\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_operators_that_do_not_fit_are_refused(operator, said):
    if isinstance(operator, Product):
        operator.matrix = operator.matrix[:, :50]
    with pytest.raises(ValueError, match=said):
        check_adjoint(operator, SHAPE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mask(torch.ones(4, 4)), "known: all entries are known"),
        (lambda: Mask([[0, 0]]), "known: no entries are known"),
        (lambda: Box(1.0), "size=1.0"),
        (lambda: RandomPixels(0.0), "ratio=0.0"),
        (lambda: CompressedSensing(2), "ratio=2"),
        (lambda: AveragePool(1), "factor=1: it must be at least 2"),
        (lambda: Bicubic(1), "factor=1: it must be at least 2"),
        (lambda: Grey([0.0, 0.0]), r"weights=\[0.0, 0.0\]"),
        (lambda: Grey().bind((1, 8, 8)), "have no colours"),
        (lambda: GaussianBlur(0.0), "std=0.0"),
        (lambda: MotionBlur(-1.0), "length=-1.0"),
        (lambda: Blur([[1.0, -1.0]]), "kernel: it must be"),
        (lambda: Blur([[1.0, 2.0], [3.0]]), "kernel: its rows must be of numbers, and of one length"),
        (lambda: Blur([[1.0]], cut=-1), "cut=-1"),
        (lambda: GaussianBlur().bind((16,)), r"samples have the shape \[16\]; it takes images"),
    ],
)
def test_options_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
