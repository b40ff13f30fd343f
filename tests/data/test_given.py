"""Images and masks that a user gives: as they are in the file, in the order of their names, or a sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.data.given import classes_of, image_folder, known_pixels
from denoiselab.errors import BadInput

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
COLOUR = np.stack((GREY, GREY[::-1], GREY.T), axis=2)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "set"
    found.mkdir()
    return found


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)


def test_images_are_read_as_they_are_in_the_order_of_their_names(folder):
    save(folder / "b.png", GREY)
    save(folder / "a.png", GREY.T.copy())
    save(folder / "c.png", np.repeat(GREY[..., None], 3, axis=2))
    images, names = image_folder(folder, (1, 4, 4), "task.images")
    assert names == ["a.png", "b.png", "c.png"]
    assert torch.equal(images.samples[:, 0], torch.from_numpy(np.stack((GREY.T, GREY, GREY))))
    inputs = images.inputs(torch.tensor([1]))
    assert torch.equal(((inputs[0, 0] + 1) * 127.5).round().byte(), torch.from_numpy(GREY))


def test_grey_and_palettes_suit_a_model_of_colours(folder):
    save(folder / "a.png", GREY)
    Image.fromarray(COLOUR).quantize(256).save(folder / "b.png")
    images, _ = image_folder(folder, (3, 4, 4), "task.images")
    assert torch.equal(images.samples[0], torch.from_numpy(GREY).expand(3, 4, 4))
    assert torch.equal(images.samples[1], torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_folders_of_numbers_are_classes(folder):
    for name in ("7", "10"):
        (folder / name).mkdir()
        save(folder / name / "a.png", GREY)
    images, names = image_folder(folder, (1, 4, 4), "task.images")
    assert (names, images.labels.tolist()) == (["10/a.png", "7/a.png"], [10, 7])
    assert classes_of(names).tolist() == [10, 7]
    assert classes_of([*names, "a.png"]) is classes_of(["seven/a.png"]) is None


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.zeros((4, 6), np.uint8), "it has 4 x 6 pixels (height x width), and 4 x 4 are needed"),
        (np.zeros((4, 4, 4), np.uint8), "alpha channel"),
        (np.zeros((4, 4, 2), np.uint8), "alpha channel"),
        (GREY.astype(np.uint16) * 256, "more than 8 bits"),
        (COLOUR, "it is in colour, and grey is needed"),
        (None, "not an image"),
    ],
    ids=["size", "rgba", "la", "16 bits", "colour", "text"],
)
def test_other_images_are_refused_in_a_sentence(pixels, says, folder):
    if pixels is None:
        (folder / "a.png").write_text("hello")
    else:
        save(folder / "a.png", pixels)
    with pytest.raises(BadInput) as error:
        image_folder(folder, (1, 4, 4), "task.images")
    text = str(error.value)
    assert text.startswith("task.images: ")
    assert "a.png: " in text
    assert says in text
    assert text.endswith(".")


def test_a_folder_without_images_and_models_of_no_images_are_refused(folder):
    with pytest.raises(BadInput, match=r"task.images=.*: there is no image in it"):
        image_folder(folder, (1, 4, 4), "task.images")
    with pytest.raises(BadInput, match=r"task.images=.*: there is no such folder"):
        image_folder(folder / "none", (1, 4, 4), "task.images")
    with pytest.raises(BadInput, match="are no images; give held_out or train"):
        image_folder(folder, (2,), "task.images")


def test_a_mask_says_which_pixels_are_known(tmp_path):
    white = np.zeros((4, 6), np.uint8)
    white[1:3] = 255
    save(tmp_path / "mask.png", white)
    Image.fromarray(white).convert("1").save(tmp_path / "bits.png")
    for name in ("mask.png", "bits.png"):
        found = known_pixels(tmp_path / name, (4, 6), "white", "task.mask")
        assert found.shape == (1, 4, 6)
        assert found.sum(2).tolist() == [[0, 6, 6, 0]]
        assert torch.equal(known_pixels(tmp_path / name, (4, 6), "black", "task.mask"), ~found)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.full((4, 4), 255, np.uint8), "marks every pixel as known (white)"),
        (np.zeros((4, 4), np.uint8), "marks no pixel as known (white)"),
        (GREY, "black (0) and white (255) only, and it has 16 too"),
        (np.eye(5, dtype=np.uint8) * 255, "it has 5 x 5 pixels"),
        (np.zeros((4, 4, 4), np.uint8), "alpha channel"),
    ],
    ids=["all", "none", "not binary", "size", "alpha"],
)
def test_other_masks_are_refused_in_a_sentence(value, says, tmp_path):
    save(tmp_path / "mask.png", value)
    with pytest.raises(BadInput) as error:
        known_pixels(tmp_path / "mask.png", (4, 4), "white", "task.mask")
    assert str(error.value).startswith("task.mask")
    assert says in str(error.value)
    with pytest.raises(BadInput, match=r"task.mask=.*: there is no such file"):
        known_pixels(tmp_path / "none.png", (4, 4), "white", "task.mask")
