"""How tables, the page and logs call the guidance of a cell."""

import math

import pytest

from denoiselab.evaluation.records import depends_on_nfe, evaluations, guidance_text
from denoiselab.evaluation.report.tables import by_series
from denoiselab.guidance import AdaptiveProjected, CFGPlusPlus, ClassifierFree, Guidance


@pytest.mark.parametrize(
    ("guidance", "text"),
    [
        (Guidance(), ""),
        (Guidance(3.0), "scale=3"),
        (Guidance(1.0, AdaptiveProjected()), ""),
        (Guidance(3.0, AdaptiveProjected(interval=[0.19, 1.61])), "scale=3 apg interval (0.19, 1.61]"),
        (Guidance(2.5, ClassifierFree(interval=[0, math.inf], rescale=0.7)), "scale=2.5 interval (0, inf] rescale=0.7"),
        (Guidance(1.0, CFGPlusPlus()), "scale=1 cfgpp"),
    ],
)  # fmt: skip
def test_a_label_says_what_acts(guidance, text):
    assert guidance_text(guidance.facts) == text
    assert depends_on_nfe(guidance.facts) == isinstance(guidance.guider, CFGPlusPlus)


def test_a_guide_is_called_by_its_weights_and_counts_as_evaluations():
    guide = {"model_sha256": "a" * 64, "weights_sha256": "1234567890", "weights": "ema@0.15"}
    record = {"guidance": 2.0, "guider": {"name": "auto", "guide": guide}, "network_evaluations": 63}
    assert guidance_text(record) == "scale=2 auto guide 12345678 ema@0.15"
    assert evaluations(record) == 63
    assert evaluations({**record, "guide_evaluations": 11.5}) == 74.5


def test_series_differ_by_what_differs():
    common = {"sampler": "ddim", "weights": "ema", "nfe": 5}
    kinds = [Guidance(), Guidance(3.0), Guidance(3.0, AdaptiveProjected())]
    names = [*by_series([{**common, **one.facts} for one in kinds])]
    assert names == ["ddim scale=1", "ddim scale=3", "ddim scale=3 apg"]
    assert [*by_series([{**common, **kinds[0].facts}])] == ["ddim"]


def test_the_code_is_in_a_name_only_where_it_tells_cells_apart():
    def cell(sampler, nfe, code, *, other=True):
        return {
            "sampler": sampler,
            "weights": "ema",
            "nfe": nfe,
            "guidance": 1,
            "code_sha256": code,
            "other_code": other,
        }

    former = [cell("ddim", 5, "aaaa"), cell("unipc", 5, "bbbb")]
    assert [*by_series(former)] == ["ddim", "unipc"]
    assert [*by_series([*former, cell("ddim", 9, "cccc")])] == ["ddim code=aaaa", "ddim code=cccc", "unipc"]
    again = [*former, cell("unipc", 5, "cccc", other=False)]
    assert [*by_series(again)] == ["ddim code=aaaa", "unipc code=bbbb", "unipc"]
