"""Parts of a user that break the contracts of evaluation are refused with the expected call and what was found."""

import math

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from denoiselab.data import ImageSet
from denoiselab.evaluation import ContractError, FrechetDistance, KernelDistance, Metric, Score, Workspace
from denoiselab.evaluation.features.extractors import FeatureScorer, NetworkFeatures
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.ranks import on_first_rank

CPU = torch.device("cpu")


def images(n=8):
    g = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, 1, 4, 4), generator=g, dtype=torch.uint8)


class Pixels:
    """A feature extractor that returns what it is given as `out`."""

    name, fingerprint, facts, description = "pixels", "ab" * 32, {}, ""

    def __init__(self, out=lambda x: {"features": x}):
        self.dimensions, self.out = {"features": 16}, out

    def title(self, metric):
        return metric

    def __call__(self, x):
        return self.out(x.float().flatten(1) / 255)


class Mean(Metric):
    """A metric that returns what it is given as `out`."""

    layer, lower_is_better = "features", {"mean": True}
    reads_moments, reads_features, reads_reference = False, True, True

    def __init__(self, out):
        self.out = out

    def scores(self, samples, reference):
        return self.out(samples.outputs)


def score(extractor, metric, tmp_path):
    scorer = FeatureScorer(extractor, [metric], {})
    data = ImageSet(images(9), torch.zeros(9).long())
    reference = scorer.reference(data, {}, Workspace(tmp_path, shown=False), CPU)
    statistics = scorer.statistics()
    statistics.update(images())
    return scorer.scores(statistics, reference)


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (lambda x: {"features": x.double()}, r"\['features'\] is float64 \[8, 16\]"),
        (lambda x: {"features": x[:, :3]}, r"\['features'\] is float32 \[8, 3\]"),
        (lambda x: {"features": x.sum(0)}, r"\['features'\] is float32 \[16\]"),
        (lambda x: {"features": x.numpy()}, r"\['features'\] is ndarray"),
        (lambda x: {"pool": x}, r" has only the keys \['pool'\]"),
        (lambda x: x, " is a Tensor, not a dict"),
    ],
)
@pytest.mark.parametrize("metric", [FrechetDistance(), KernelDistance(2, 4)])
def test_outputs_of_an_extractor(metric, out, found):
    says = (
        rf"evaluation\.extractor=pixels: Pixels\(images\){found}; expected is a float32 tensor \[8, 16\] for 8 images"
    )
    with pytest.raises(ContractError, match=says):
        Collected(Pixels(out), [metric]).update(images())


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (lambda x: None, "a NoneType"),
        (lambda x: float(x.mean()), "a float"),
        (lambda x: {"average": Score(0.0)}, r"a dict of \['average'\]"),
        (lambda x: {"mean": Score(0.0), "more": Score(0.0)}, r"a dict of \['mean', 'more'\]"),
        (lambda x: {"mean": 1.0}, "1.0 for 'mean'"),
        (lambda x: {"mean": Score(x.mean())}, r"Score\(value=tensor\(.*for 'mean'"),
        (lambda x: {"mean": Score("low")}, "Score.value='low'.* for 'mean'"),
        (lambda x: {"mean": Score(0.0, "small")}, r"Score\(value=0.0, standard_error='small'.* for 'mean'"),
    ],
)
def test_results_of_a_metric(out, found, tmp_path):
    says = (
        rf"evaluation\.metrics: Mean\.scores\(samples, reference\) returned {found}; expected is a dict of \['mean'\]"
    )
    with pytest.raises(ContractError, match=says):
        score(Pixels(), Mean(out), tmp_path)


@pytest.mark.parametrize("value", [Score(0.25), Score(1), Score(math.nan, reason="none"), Score(0.5, 0.1)])
def test_parts_that_keep_their_contract(value, tmp_path):
    found = score(Pixels(), Mean(lambda x: {"mean": value}), tmp_path)
    assert [*found] == ["mean"]
    assert found["mean"] is value


def test_a_network_without_a_dict(tmp_path):
    with pytest.raises(ContractError, match=r"extractor=mine: Flatten\(images\) returned a Tensor; expected"):
        NetworkFeatures("mine", "ab" * 32, torch.nn.Flatten(), 1, {}, {}, "")


def refuse(rank, path, out):
    def broken():
        raise ContractError("evaluation.metrics: broken")

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    with pytest.raises(ContractError) as error:
        on_first_rank(broken)
    (out / str(rank)).write_text(str(error.value))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_broken_contract_is_an_error_on_all_ranks(tmp_path):
    on_ranks(refuse, (tmp_path / "store", tmp_path), 2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["evaluation.metrics: broken"] * 2
