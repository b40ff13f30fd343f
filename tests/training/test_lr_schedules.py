import pytest

from denoiselab.training.lr_schedules import Warmup, WarmupCosine, WarmupExponential, WarmupInverseRoot, WarmupLinear


def test_warmup():
    assert [Warmup(100)(n) for n in (0, 50, 100, 10**9)] == [0, 0.5, 1, 1]
    assert Warmup(0)(0) == 1


def test_warmup_cosine():
    assert [WarmupCosine(100, 300)(n) for n in (0, 50, 100, 200, 300, 400)] == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    with pytest.raises(ValueError, match="shorter"):
        WarmupCosine(100, 100)


def test_warmup_linear():
    assert [WarmupLinear(100, 300)(n) for n in (0, 50, 100, 150, 300, 400)] == pytest.approx([0, 0.5, 1, 0.75, 0, 0])


def test_warmup_inverse_root():
    """EDM2's: max(images / constant, 1)^-1/2 times the warm-up."""
    schedule = WarmupInverseRoot(constant=200, images=100)
    assert [schedule(n) for n in (0, 50, 100, 200, 800, 20000)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0.1])
    with pytest.raises(ValueError, match="constant=0"):
        WarmupInverseRoot(0)


def test_warmup_exponential():
    schedule = WarmupExponential(decade=200, least=0.01, images=100)
    assert [schedule(n) for n in (0, 200, 400, 4000)] == pytest.approx([0, 0.1, 0.01, 0.01])
    with pytest.raises(ValueError, match="decade=0"):
        WarmupExponential(0)
