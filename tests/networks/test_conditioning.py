import pytest
import torch

from denoiselab.networks import MLP, Conditioning
from denoiselab.networks.conditioning import check_conditioning

FIELDS = {
    "class_label": torch.tensor([0, 1]),
    "vector": torch.zeros(2, 4),
    "tokens": torch.zeros(2, 5, 4),
    "mask": torch.ones(2, 5, dtype=torch.bool),
    "image": torch.zeros(2, 3, 4, 4),
    "augmentation": torch.zeros(2, 9),
}


def test_every_field_is_tried_here():
    assert Conditioning._fields == tuple(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_a_network_does_not_take_is_refused(name):
    with pytest.raises(ValueError, match=f"does not take {name}; it takes nothing"):
        MLP((2,), width=16)(torch.zeros(2, 2), torch.zeros(2), Conditioning(**{name: FIELDS[name]}))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_a_network_needs_is_asked_for_unless_its_lack_has_a_meaning(name):
    check_conditioning(Conditioning(**{name: FIELDS[name]}), {name})
    if name in ("mask", "augmentation"):
        check_conditioning(Conditioning(), {name})
    else:
        with pytest.raises(ValueError, match=f"needs {name}"):
            check_conditioning(Conditioning(), {name})
