"""Grids of images, with and without labels."""

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.conditioners import ClassLabel
from denoiselab.media.figures import grid
from denoiselab.media.kinds import medium
from denoiselab.media.labels import labelled_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_above_its_own_label(channels):
    images = torch.arange(1, 7, dtype=torch.uint8)[:, None, None, None].expand(6, channels, 8, 8) * 10
    picture = labelled_grid(images, 3, ["0", "1", "2", "0", "1", "2"], 8)
    assert picture.shape == (channels, 2 * (64 + 14 + 4), 3 * (64 + 4))
    cells = picture[0].reshape(2, 82, 3, 68).permute(0, 2, 1, 3).flatten(0, 1)
    assert torch.equal(
        cells[:, :64, :64], images[:, :1].float().repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0].byte()
    )
    text = cells[:, 64:78, :64].int()
    assert (text.flatten(1).max(1).values > 120).all()
    for a in range(6):
        for b in range(6):
            assert torch.equal(text[a], text[b]) == (a % 3 == b % 3)


def test_a_long_prompt_is_broken_to_the_width_and_ends_in_an_ellipsis():
    image = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    short, long, endless = (
        labelled_grid(image, 1, [label])[0]
        for label in ("a red apple", "a photograph of a red apple on a table of old dark wood", "x" * 500)
    )
    assert short.shape[0] == 64 + 2 * 14 + 4 or short.shape[0] == 64 + 14 + 4
    assert long.shape == endless.shape == (64 + 3 * 14 + 4, 68)
    assert int(long[:, 64:].max()) == 0


def test_a_grid_without_conditions_stays_as_it_was(tmp_path):
    images = torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)
    medium((1, 8, 8)).write_grid(tmp_path / "plain.png", images)
    medium((1, 8, 8)).write_grid(tmp_path / "labelled.png", images, labels=ClassLabel(10).described(torch.arange(4)))
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "labelled.png") as labelled:
        assert plain.size == (144, 144)
        assert labelled.size == (2 * 68, 2 * 82)
        assert np.asarray(labelled)[:64, :64].min() == 200


def test_grid_places_images_row_by_row():
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 2, 2)
    tiled = grid(images, 3)
    assert tiled.shape == (1, 4, 6)
    assert tiled[0, ::2, ::2].tolist() == [[0, 1, 2], [3, 4, 0]]
