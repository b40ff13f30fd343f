"""Every sampler of conf/sampler is held to what it declares: order, network calls, adaptive, stochastic, its ends.

No sampler is named here: a new YAML is found, and one that cannot be held to an order says so itself (`no_order`).
"""

import copy
import functools
import shutil

import configurations
import pytest
from configurations import build, complete, names

from denoiselab import samplers
from denoiselab.testing import check_sampler
from denoiselab.testing.samplers import CHECKS, prepared


@functools.cache
def sampler_of(conf, name):
    """A sampler as it is shipped in a folder of configurations, for data that are no pixels."""
    return prepared(build("sampler", name))


@pytest.mark.parametrize("name", complete("sampler"))
@pytest.mark.parametrize("claim", CHECKS)
def test_a_sampler_is_what_it_declares(name, claim):
    claim(copy.copy(sampler_of(configurations.CONF, name)))


class WrongOrder(samplers.DDIM):
    convergence_order = 4


class WrongWeakOrder(samplers.Ancestral):
    convergence_order = 2


class WrongCalls(samplers.DDIM):
    calls_per_step = 2


class NotDeterministic(samplers.Ancestral):
    stochastic = False


class NoReason(samplers.DDIM):
    convergence_order = None


class WrongAdaptiveOrder(samplers.AdaptiveODE):
    convergence_order = 8


@pytest.mark.parametrize(
    "lie", [WrongOrder, WrongWeakOrder, WrongCalls, NotDeterministic, NoReason, WrongAdaptiveOrder]
)
def test_a_new_file_with_a_false_claim_is_found_out(lie, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(configurations.CONF, conf)
    steps = "" if issubclass(lie, samplers.AdaptiveODE) else "steps: 10\n"
    (conf / "sampler" / "new.yaml").write_text(
        f"defaults:\n  - /spacing@spacing: uniform_log_snr\n  - _self_\n_target_: {__name__}.{lie.__name__}\n{steps}"
    )
    before = names("sampler")
    monkeypatch.setattr(configurations, "CONF", conf)
    monkeypatch.setenv("DENOISELAB_ALLOW", f"{__name__}.")
    assert set(names("sampler")) - set(before) == {"new"}
    with pytest.raises(AssertionError):
        check_sampler(build("sampler", "new"))


def test_a_true_claim_of_a_new_file_holds():
    check_sampler(build("sampler", "ddim"))
