import pytest
import torch

from denoiselab.training.ema import EMA, RAW, Constant, HalfLife


def test_half_life():
    assert HalfLife(1000, ramp_up=None).decay(10, 1000) == 0.5
    assert HalfLife(1000, ramp_up=0.05).decay(2000, 100) == 0.5
    assert HalfLife(1000, ramp_up=0.05).decay(10**9, 100) == pytest.approx(0.5**0.1)


def run(ema, module, steps, start=0):
    for step in range(start, steps):
        torch.manual_seed(step)
        with torch.no_grad():
            module.weight.copy_(torch.randn_like(module.weight))
        ema.update(module, 10 * (step + 1), 10)


def test_profiles_follow_their_formula_in_one_update():
    module = torch.nn.Linear(3, 2)
    ema = EMA({"slow": Constant(0.99), "fast": Constant(0.5)})
    ema.start(module)
    expected = {name: module.weight.detach().double().clone() for name in ema.profiles}
    for step in range(5):
        torch.manual_seed(step)
        weight = torch.randn(2, 3)
        for name, decay in (("slow", 0.99), ("fast", 0.5)):
            expected[name] = decay * expected[name] + (1 - decay) * weight.double()
    run(ema, module, 5)
    for name in ema.profiles:
        assert torch.allclose(ema.averages[name]["weight"].double(), expected[name], atol=1e-6)


def test_applied_is_undone_by_exceptions():
    module = torch.nn.Linear(3, 2)
    ema = EMA({"ema": Constant(0.9)})
    ema.start(module)
    run(ema, module, 3)
    own = module.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), ema.applied(module, "ema"):  # noqa: PT012
        assert torch.equal(module.weight, ema.averages["ema"]["weight"])
        raise KeyboardInterrupt
    assert torch.equal(module.weight, own)
    with ema.applied(module, RAW):
        assert torch.equal(module.weight, own)


def test_continues_from_stored_averages():
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    straight, resumed = EMA({"ema": Constant(0.9)}), EMA({"ema": Constant(0.9)})
    other.load_state_dict(module.state_dict())
    straight.start(module)
    run(straight, module, 6)
    resumed.start(other)
    run(resumed, other, 3)
    again = EMA({"ema": Constant(0.9)})
    again.averages = {"ema": {k: v.clone() for k, v in resumed.averages["ema"].items()}}
    again.start(other)
    run(again, other, 6, start=3)
    assert torch.equal(again.averages["ema"]["weight"], straight.averages["ema"]["weight"])


def test_raw_is_not_a_profile():
    with pytest.raises(ValueError, match="raw"):
        EMA({"raw": Constant()})
    with pytest.raises(ValueError, match="decay=1"):
        Constant(1)
    with pytest.raises(ValueError, match="images=0"):
        HalfLife(0)
