"""Checks of a network: shapes, conditions, independence of rows, memory layout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.networks import Conditioning
from denoiselab.networks.conditioning import OPTIONAL

LABEL = torch.tensor([3.0, 9.0])


def check_network(
    network: nn.Module, shape: Sequence[int], cond: Conditioning = Conditioning(), outputs: int = 1
) -> None:
    """Check that a network can be trained and sampled from by this package.

    It maps samples to outputs of their shape, from no sample to any number; depends on the time label and on each
    condition that it takes, and refuses the others; in evaluation a row depends on no other row; it works in channels
    last, with the same output and gradients. It is not changed: parameters near zero are drawn anew in a copy.

    Args:
        network: Called as `network(x, label, cond)`.
        shape: Of a sample.
        cond: Two rows of each condition that the network takes.
        outputs: Channels of the output, in units of those of the sample.

    Raises:
        AssertionError: If it cannot; the message says what fails.
    """
    draw = torch.Generator().manual_seed(0)
    network = wake(copy.deepcopy(network), draw).eval()
    x = torch.randn(2, *shape, generator=draw)
    taken = getattr(network, "conditioning", None)
    given = {name for name, value in cond._asdict().items() if value is not None}
    assert isinstance(taken, frozenset), (
        f"{_name(network)}.conditioning: must be a frozenset of fields of Conditioning."
    )
    assert given == taken, f"{_name(network)}.conditioning is {sorted(taken)}: the check was given {sorted(given)}."
    for check in CHECKS:
        check(network, x, cond, outputs)


def wake(network: nn.Module, draw: torch.Generator) -> nn.Module:
    """The network, with none of its layers at or near zero, where nothing could be seen of what they do."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 0.1:
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    return network


def gradients(network: nn.Module, x: Tensor, cond: Conditioning) -> dict[str, Tensor]:
    """Of the sum of squares of the output, by name of parameter."""
    network.zero_grad()
    network(x, LABEL, cond).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def close(a: Tensor, b: Tensor) -> bool:
    """Equal to float32's rounding."""
    return bool((a - b).abs().max() <= 2e-4 * b.abs().max())


@torch.no_grad()
def maps_samples_to_their_shape(network: nn.Module, x: Tensor, cond: Conditioning, outputs: int) -> None:
    """Check the shape of the output, of two samples and of none."""
    for rows in (2, 0):
        out = network(x[:rows], LABEL[:rows], _rows(cond, slice(rows)))
        assert isinstance(out, Tensor), f"{_name(network)}: must return a tensor, not {type(out).__name__}."
        wanted = (rows, outputs * x.shape[1], *x.shape[2:])
        assert out.shape == wanted, f"{_name(network)}: output of shape {tuple(out.shape)} where {wanted} is needed."


@torch.no_grad()
def depends_on_the_label(network: nn.Module, x: Tensor, cond: Conditioning, outputs: int) -> None:
    """Check that another time label gives another output, unless the network's `uses_label` is False."""
    same = torch.equal(network(x, LABEL + 1, cond), network(x, LABEL, cond))
    assert same != getattr(network, "uses_label", True), f"{_name(network)}: does not depend on the time label."


@torch.no_grad()
def takes_its_conditions(network: nn.Module, x: Tensor, cond: Conditioning, outputs: int) -> None:
    """Check that the output depends on the conditions, and that what is not taken, or is missing, is refused."""
    out = network(x, LABEL, cond)
    for field, value in cond._asdict().items():
        if value is None:
            _refuses(network, x, cond._replace(**{field: torch.zeros(2, 1)}), f"does not take {field}")
            continue
        if field not in OPTIONAL:
            _refuses(network, x, cond._replace(**{field: None}), f"needs {field}")
        changed = network(x, LABEL, cond._replace(**{field: value.flip(0)}))
        assert not torch.equal(changed, out), f"{_name(network)}: does not depend on {field}."


@torch.no_grad()
def keeps_rows_apart(network: nn.Module, x: Tensor, cond: Conditioning, outputs: int) -> None:
    """Check that in evaluation a row of the output depends on that row of the input alone."""
    out = network(x, LABEL, cond)
    for row in (slice(0, 1), slice(1, 2)):
        alone = network(x[row], LABEL[row], _rows(cond, row))
        assert close(alone, out[row]), f"{_name(network)}: in evaluation, a sample depends on others of its batch."


def works_in_channels_last(network: nn.Module, x: Tensor, cond: Conditioning, outputs: int) -> None:
    """Check that channels last gives the same output and gradients."""
    network = copy.deepcopy(network)
    want = {**gradients(network, x, cond), "": network(x, LABEL, cond)}
    if x.ndim == 4:
        network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    got = {**gradients(network, x, cond), "": network(x, LABEL, cond)}
    wrong = [name for name in want if name not in got or not close(got[name], want[name])]
    assert not wrong, f"{_name(network)}: channels last changes {wrong[0] or 'the output'}."


CHECKS: tuple[Callable[[nn.Module, Tensor, Conditioning, int], None], ...] = (
    maps_samples_to_their_shape,
    depends_on_the_label,
    takes_its_conditions,
    keeps_rows_apart,
    works_in_channels_last,
)


def _refuses(network: nn.Module, x: Tensor, cond: Conditioning, says: str) -> None:
    said = "nothing was raised"
    try:
        network(x, LABEL, cond)
    except ValueError as error:
        said = str(error)
    assert says in said, f"{_name(network)}: must raise a ValueError which says that it {says}; found: {said}"


def _rows(cond: Conditioning, rows: slice) -> Conditioning:
    given: dict[str, Any] = {name: value[rows] for name, value in cond._asdict().items() if value is not None}
    return Conditioning(**given)


def _name(network: nn.Module) -> str:
    return type(network).__name__
