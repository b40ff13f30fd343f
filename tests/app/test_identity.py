"""What tells the model of a score from another of the same weights."""

import pytest

from denoiselab.from_config import identity

CONFIG = {
    "codec": {"_target_": "c", "path": "x", "sha256": "ab", "shape": [1, 4, 4]},
    "network": {"_target_": "n"},
    "schedule": {"_target_": "s"},
    "parameterization": {"_target_": "eps"},
    "denoiser": {"_target_": "d", "time_label": {"_target_": "t"}, "variance": None},
    "conditioner": {"_target_": "p", "classes": None},
}


@pytest.mark.parametrize(
    "change",
    [
        {"parameterization": {"_target_": "v"}},
        {"schedule": {"_target_": "s", "t_max": 0.9}},
        {"codec": {**CONFIG["codec"], "sha256": "cd"}},
        {"denoiser": {**CONFIG["denoiser"], "time_label": {"_target_": "u"}}},
        {"denoiser": {**CONFIG["denoiser"], "variance": {"_target_": "w"}}},
        {"conditioner": {**CONFIG["conditioner"], "classes": [3]}},
    ],
    ids=str,
)
def test_each_part_of_a_model_tells_it_from_others(change):
    assert identity(CONFIG | change) != identity(CONFIG)


def test_files_count_by_what_is_in_them_and_not_by_where_they_are(tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, text in zip(files, ("one", "one", "two"), strict=True):
        file.write_text(text)
    found = [identity(CONFIG | {"schedule": {"_target_": "s", "path": str(file)}}) for file in files]
    assert found[0] == found[1] != found[2]
    moved = {**CONFIG["codec"], "path": "elsewhere"}
    assert identity(CONFIG | {"codec": moved, "seed": 3, "paths": {}}) == identity(CONFIG)


def test_of_a_store_counts_that_there_is_one():
    def of(**options):
        return identity(CONFIG | {"conditioner": {"_target_": "p", "encoder": {"_target_": "e", **options}}})

    assert of(store="a") == of(store="b/c") != of()
    assert of(store=None) != of(store="a")
