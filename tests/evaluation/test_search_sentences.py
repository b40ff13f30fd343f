"""What a search says of its choice."""

import pytest

from denoiselab.evaluation.report.searches import Choice, Outcome, Scouted


@pytest.mark.parametrize(("first", "says"), [(10.4, True), (10.9, False)])
def test_a_choice_that_is_not_the_lowest_at_n_says_which_values_chose_it(first, says):
    def scouted(name, value):
        return Scouted({"sampler": name}, {"score": value, "n": 128, "scores": {}, "metric": "fid"})

    both = [scouted("ddim", first), scouted("unipc", 10.6)]
    (sentence,) = Outcome(both, [Choice(1, [0], [0, 1], 0.5)], {}).sentences()
    assert ("chosen by values at infinitely many samples" in sentence) is says
