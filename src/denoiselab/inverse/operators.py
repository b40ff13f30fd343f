"""What a linear operator A of a measurement y = A x + sigma_y z is, its test, and the solver behind its defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from denoiselab.noise import Noise

# Seed of the draws of `check_adjoint`.
_PROBE = 20190

# How far A^+ A x' may be from x' = A^+ A x, relative to it, for a pseudo-inverse that is computed by few iterations.
_INEXACT = 0.05

# How far (v A A^T + s2) gram_inverse(y) may be from y, relative to it.
_GRAM = 0.01


class LinearOperator(nn.Module, ABC):
    """A linear operator on samples `(B, *shape)`, in the network's range; rows of a batch do not mix.

    A subclass writes `forward`. The adjoint is by automatic differentiation, and equations are solved by conjugate
    gradients, unless it writes closed forms of them.

    Attributes:
        shape: Of a sample; empty before `bind`.
        iterations: The most of conjugate gradients, which take no more than twice as many as there are measurements.
    """

    shape: tuple[int, ...] = ()
    iterations: int = 100

    def __init__(self) -> None:  # without it, what a class takes could not be read from its source
        super().__init__()

    def bind(self, shape: Sequence[int]) -> Self:
        """Prepare the operator for samples of a shape, once, before all other calls.

        Raises:
            ValueError: If the operator does not take samples of this shape.
        """
        self.shape = tuple(shape)
        return self

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, `(B, *shape_of(shape))`, for `x` `(B, *shape)` of any float dtype, which it keeps."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, `(B, *shape)`, for `y` `(B, *shape_of(shape))`."""
        with torch.enable_grad():
            x = y.new_zeros(len(y), *self.shape).requires_grad_()
            (out,) = torch.autograd.grad(self(x), x, y.detach())
        return out.detach()

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        """(v A A^T + s2)^-1 y, shaped like `y` `(B, *)`.

        Args:
            y: Right side.
            v: Not negative; a number, `()`, or shaped `(B, 1, ..., 1)` to multiply y.
            s2: Likewise.
        """
        return conjugate_gradients(lambda u: v * self(self.adjoint(u)) + s2 * u, y, self._enough(y))

    def pinv(self, y: Tensor) -> Tensor:
        """The x `(B, *shape)` of least norm among those of least |A x - y|."""
        return conjugate_gradients(lambda x: self.adjoint(self(x)), self.adjoint(y), self._enough(y))

    def _enough(self, y: Tensor) -> int:
        return min(self.iterations, 2 * y[0].numel())

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of y for one sample of a shape, that of `bind`."""
        with torch.no_grad():
            tensors = [*self.parameters(), *self.buffers()]
            device = tensors[0].device if tensors else torch.device("cpu")
            return tuple(self(torch.zeros(1, *shape, device=device)).shape[1:])


class Decoded(LinearOperator):
    """A D(z), measurements of what a decoder D makes of latents: not linear, for methods that only call it.

    Args:
        operator: A, bound to the decoded samples.
        decode: D, `(B, *)` to `(B, *)`, differentiable.
    """

    def __init__(self, operator: LinearOperator, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operator, self.decode = operator, decode

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.operator(self.decode(x).to(x.dtype))
        return out


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float | None = None
) -> Tensor:
    """Solve M x = b for each row of `b` `(B, *)`, from x = 0, with a fixed number of products and no wait for a device.

    A row stays as it is once its residual is small, or once M is not positive along its next direction, up to rounding;
    so M may be singular where b is in its range.

    Source: Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.

    Args:
        product: M, of batches `(B, *)`, symmetric.
        b: Right sides.
        iterations: Products of M.
        tolerance: Residual, relative to b, at which a row is solved; None for the resolution of b's type.
    """
    eps = torch.finfo(b.dtype).eps
    small = eps if tolerance is None else tolerance
    x, r, p = torch.zeros_like(b), b, b
    rr = _dot(r, r)
    enough = small**2 * rr
    going, most = rr > enough, torch.zeros_like(rr)
    for _ in range(iterations):
        moved = product(p)
        curvature, pp = _dot(p, moved), _dot(p, p)
        most = torch.where(going, torch.maximum(most, curvature / pp), most)
        going = going & (curvature > eps * most * pp)
        step = torch.where(going, rr / curvature, 0)
        x, r = x + step * p, r - step * moved
        left = _dot(r, r)
        p = r + torch.where(going, left / rr, 0) * p
        rr = torch.where(going, left, rr)
        going = going & (rr > enough)
    return x


def minimal_residuals(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solve M x = b for each row of `b` `(B, *)`, from x = 0, where M need not be symmetric or positive.

    The iterates are those of GMRES, whose residuals do not grow, in the form of generalised conjugate residuals, with a
    fixed number of products and no wait for a device. A row stays as it is where a product has nothing new.

    Source: Eisenstat, Elman and Schultz, Variational Iterative Methods for Nonsymmetric Systems of Linear Equations,
    SIAM J. Numer. Anal. 20, 1983, algorithm 2.

    Args:
        product: M, of batches `(B, *)`.
        b: Right sides.
        iterations: Products of M.
    """
    eps = torch.finfo(b.dtype).eps
    x, r, most = torch.zeros_like(b), b, torch.zeros_like(_dot(b, b))
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        p, moved = r, product(r)
        whole = _dot(moved, moved)
        for direction, image, size in past:
            share = torch.where(size > 0, _dot(moved, image) / size, 0)
            p, moved = p - share * direction, moved - share * image
        size, pp = _dot(moved, moved), _dot(p, p)
        most = torch.where(pp > 0, torch.maximum(most, size / pp), most)
        size = torch.where((size > eps**2 * most * pp) & (size > eps * whole), size, 0)
        step = torch.where(size > 0, _dot(r, moved) / size, 0)
        x, r = x + step * p, r - step * moved
        past.append((p, moved, size))
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise, `(B, 1, ..., 1)`."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def check_adjoint(
    operator: LinearOperator, shape: Sequence[int], device: torch.device | str = "cpu", tolerance: float = 1e-5
) -> None:
    """Bind an operator to samples of a shape, move it to a device, and check that `<A x, y> = <x, A^T y>`.

    Its own pseudo-inverse, if it writes one, is checked too: A^+ A does not change its results, within 5 %. One that
    leaves out what A almost removes passes. So is its own `gram_inverse`, within 1 %.

    Args:
        operator: Of any class.
        shape: Of a sample.
        device: Where it computes.
        tolerance: Of the difference, relative to |A x| |y|.

    Raises:
        ValueError: If the operator does not take samples of this shape, its results have other shapes than they should,
            or a difference is larger.
    """
    name = f"operator={type(operator).__name__}"
    index = torch.arange(2, device=device)
    x = Noise(_PROBE, index).normal(shape)
    try:
        ax = operator.bind(shape).to(device)(x)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{name}: it does not take samples of shape {list(shape)}: {error}") from None
    if not isinstance(ax, Tensor) or len(ax) != len(x) or not ax.is_floating_point():
        raise ValueError(f"{name}: A x must be a float tensor with a row for each of x.")
    y = Noise(_PROBE + 1, index).normal(ax.shape[1:])
    back = operator.adjoint(y)
    if back.shape != x.shape:
        raise ValueError(f"{name}: A^T y has the shape {list(back.shape)}, and x has {list(x.shape)}.")
    ax, y = ax.double(), y.double()
    forth, home = float((ax * y).sum()), float((x.double() * back.double()).sum())
    if not abs(forth - home) <= tolerance * float(ax.norm() * y.norm()):
        raise ValueError(
            f"{name}: its adjoint is not that of its call, as <A x, y> = {forth:.6g} and <x, A^T y> = {home:.6g} for "
            "random x and y; correct `adjoint`, or leave it out, and see that A is linear."
        )
    if type(operator).pinv is not LinearOperator.pinv:
        _check_pinv(operator, name, x, ax)
    if type(operator).gram_inverse is not LinearOperator.gram_inverse:
        _check_gram_inverse(operator, name, y.to(x))


def _check_gram_inverse(operator: LinearOperator, name: str, y: Tensor) -> None:
    solved = operator.gram_inverse(y, 1.0, 0.1)
    if solved.shape != y.shape:
        raise ValueError(f"{name}: gram_inverse(y) has the shape {list(solved.shape)}, and y has {list(y.shape)}.")
    off = float((operator(operator.adjoint(solved)) + 0.1 * solved - y).norm() / y.norm())
    if not off <= _GRAM:
        raise ValueError(
            f"{name}: its gram_inverse(y, v, s2) is not (v A A^T + s2)^-1 y, as v A A^T + s2 of it differs from y by "
            f"{off:.1%}; correct it, or leave it out."
        )


def _check_pinv(operator: LinearOperator, name: str, x: Tensor, ax: Tensor) -> None:
    back = operator.pinv(ax.to(x))
    if back.shape != x.shape:
        raise ValueError(f"{name}: A^+ y has the shape {list(back.shape)}, and x has {list(x.shape)}.")
    off = float((operator.pinv(operator(back)) - back).norm() / back.norm())
    if not off <= _INEXACT:
        raise ValueError(
            f"{name}: its pseudo-inverse is not that of its call, as A^+ A changes A^+ A x by {off:.3g} of it for "
            "random x; correct `pinv`, or leave it out."
        )
