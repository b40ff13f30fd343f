"""Rows of data whose conditions samples have."""

import pytest
import torch

from denoiselab.data import rows_of


@pytest.mark.parametrize("number", [1, 2, 3, 10, 1704])
def test_few_samples_have_rows_from_everywhere_and_all_samples_each_row_once(number):
    index = torch.arange(2 * number)
    assert rows_of(index, number).tolist() == [*range(number)] * 2
    rows = rows_of(index, number, "train")
    assert sorted(rows[:number].tolist()) == [*range(number)]
    assert torch.equal(rows[:number], rows[number:])
    for n in (30, 200) if number > 1000 else ():
        gaps = rows[:n].sort().values.diff()
        assert int(gaps.max()) < 2.7 * number / n
