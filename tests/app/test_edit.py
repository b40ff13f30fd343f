"""`sample.py task=edit`: images in, images and what was done with them out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.app.building.masks import in_latents, pasted, seam
from denoiselab.codecs import AutoencoderKL
from denoiselab.errors import BadInput


def pictures(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))])


@pytest.fixture
def edit(finished, tmp_path, invoke):
    """The edits of the run's held-out digits, and their record."""

    def call(*arguments, name="out"):
        out = tmp_path / name
        steps = [] if "sampler=ode_adaptive" in arguments else ["sampler.steps=4"]
        result = invoke("sample.py", f"ckpt={finished}", "task=edit", *steps, f"out={out}", *arguments)
        assert result.code == 0, result.err
        return out, json.loads((out / "samples.json").read_text()), result.out

    return call


def mask(path, size=8):
    half = np.zeros((size, size), np.uint8)
    half[:, size // 2 :] = 255
    Image.fromarray(half).save(path)
    return half > 0


def test_an_edit_spends_all_steps_at_each_strength_and_says_where_it_starts(edit):
    first, weak, said = edit("num_samples=3", "strength=0.1")
    second, strong, _ = edit("num_samples=3", "strength=0.9", name="strong")
    assert weak["nfe"] == strong["nfe"] == weak["start_steps"] == 4
    assert "from t=0.1009 (rho=" in said
    assert weak["start"]["rho"] < 0.5 < 10 < strong["start"]["rho"]
    given, near, far = (pictures(path).astype(float) for path in (first / "given", first, second))
    assert np.array_equal(given, pictures(second / "given"))
    assert np.abs(near - given).mean() < np.abs(far - given).mean()
    assert (first / "grid.png").is_file()


def test_samples_depend_on_no_batch_size_and_a_folder_gives_its_images_in_turn(edit, tmp_path):
    out, record, _ = edit("num_samples=2", "sampler=ancestral")
    folder = out / "given"
    assert record["given"][0].startswith("held_out ")
    ours = [f"images={folder}", "sampler=ancestral", "num_samples=5"]
    one, record, _ = edit(*ours, name="one")
    two, _, _ = edit(*ours, "batch_size=2", name="two")
    assert record["given"] == ["000000.png", "000001.png", "000000.png", "000001.png", "000000.png"]
    assert np.abs(pictures(one).astype(int) - pictures(two)).max() <= 1
    assert not np.array_equal(pictures(one)[0], pictures(one)[2])  # another noise
    assert edit(f"images={folder}", name="all")[1]["num_samples"] == 2


def test_known_pixels_are_kept(edit, tmp_path):
    white = mask(tmp_path / "mask.png")
    out, record, _ = edit("num_samples=3", "strength=1", f"task.mask={tmp_path / 'mask.png'}", "task.known=black")
    result, given = pictures(out), pictures(out / "given")
    assert np.array_equal(result[:, ~white], given[:, ~white])
    assert not np.array_equal(result[:, white], given[:, white])
    assert record["known_pixels"] == 0.5
    assert record["seam"]["known_rmse"] < 1e-2 < record["seam"]["jump_given"]
    assert len(record["mask_sha256"]) == 64


def test_a_folder_has_a_mask_of_its_name_for_each_image(edit, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "masks").mkdir()
    for i, name in enumerate("ab"):
        Image.fromarray(np.full((8, 8), 60 + i, np.uint8)).save(images / f"{name}.bmp")
    white = np.stack([mask(tmp_path / "masks" / "a.png"), ~mask(tmp_path / "mask.png")])
    Image.fromarray((white[1] * 255).astype(np.uint8)).save(tmp_path / "masks" / "b.png")
    own = [f"images={images}", "num_samples=3", "strength=1"]
    out, record, _ = edit(*own, f"task.mask={tmp_path / 'masks'}")
    result, given, rows = pictures(out), pictures(out / "given"), [0, 1, 0]
    kept = result == given
    assert kept[white[rows]].all()
    assert kept[~white[rows]].mean() < 0.5
    assert record["seam"]["known_rmse"] < 1e-2
    assert [len(one) for one in record["mask_sha256"]] == [64, 64]
    split, _, _ = edit(*own, f"task.mask={tmp_path / 'masks'}", "batch_size=1", name="split")
    assert np.abs(pictures(split).astype(int) - result).max() <= 1
    whole, _, _ = edit(*own, f"task.mask={tmp_path / 'mask.png'}", "task.known=black", name="one")
    assert np.array_equal(pictures(whole)[1], result[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task.mask=masks"], "task.mask=masks: masks by names need images in a folder; give task.images, or one"),
        (["task.mask=masks", "images=masks"], "black (0) and white (255) only, and it has 128 too"),
        (["task.mask=masks", "images=wrong"], "task.mask=masks: the image B.png has no mask of its name (1 such)"),
        (["task.mask=wrong", "images=a"], "task.mask=wrong: the mask B.png has no image of its name (1 such)"),
        (["strength=0"], "task.strength=0: it must be above 0 and at most 1."),
        (["strength=1.5"], "task.strength=1.5: it must be above 0 and at most 1."),
        (["strength=0.1", "task.steps=floor"], "task.strength=0.1, task.steps=floor: DDIM: 0 of 4 steps are left"),
        (["task.mask=mask.png", "sampler=dpmpp_2m"], "use a single-step sampler, such as ddim or ancestral."),
        (["task.mask=small.png"], "small.png: it has 6 x 6 pixels (height x width), and 8 x 8 are needed"),
        (["task.mask=none.png"], "task.mask=none.png: there is no such file."),
        (["images=nowhere"], "task.images=nowhere: there is no such folder."),
        (["images=."], "small.png: it has 6 x 6 pixels"),
        (["task.known=black"], "task.known=black: it has no effect without mask; leave it out."),
        (["task.known=grey"], "task.known='grey': should be 'white' or 'black'."),
        (["sampler.steps=3", "spacing@sampler.spacing=listed", "sampler.spacing.values=[1,.5,.1]", "strength=.9"],
         "below t="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_a_sentence(arguments, says, finished, tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask("mask.png")
    mask("small.png", 6)
    for folder, names in (("masks", "ab"), ("wrong", "aB"), ("a", "a")):
        Path(folder).mkdir()
        for name in names:
            mask(f"{folder}/{name}.png")
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("masks/b.png")
    given = ["sample.py", f"ckpt={finished}", "task=edit", f"out={tmp_path / 'out'}"]
    given += [] if any(text.startswith("sampler.steps") for text in arguments) else ["sampler.steps=4"]
    result = invoke(*given, *arguments)
    assert result.code == 2, result.err
    assert says in result.last
    assert not (tmp_path / "out").exists()


def test_an_adaptive_sampler_says_no_number_of_steps(edit):
    _, record, said = edit("num_samples=1", "strength=0.1", "sampler=ode_adaptive", "sampler.rtol=0.1")
    assert "start_steps" not in record
    assert re.search(r"from t=0\.1009 \(rho=[\d.]+\), ", said)


def test_a_latent_is_known_if_its_whole_block_is():
    codec = AutoencoderKL((3, 32, 32), channels=4, multipliers=(1, 1, 1, 1), blocks=1, groups=2, latent_channels=4)
    codec.shape, codec.latent_shape = (3, 32, 32), (4, 4, 4)
    known = torch.ones(1, 32, 32, dtype=torch.bool)
    known[0, 9, 17] = False  # one pixel of block (1, 2)
    found = in_latents(known, codec, "task.mask=m.png")
    assert found.shape == (1, 4, 4)
    assert (~found).nonzero().tolist() == [[0, 1, 2]]
    with pytest.raises(BadInput, match="no block of 8 x 8 pixels is known as a whole"):
        in_latents(torch.arange(32)[None, :, None].expand(1, 32, 32) % 8 > 0, codec, "task.mask=m.png")


def test_the_seam_is_the_jump_across_the_edge_of_the_mask():
    given = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    samples = torch.full_like(given, 255)
    known = (torch.arange(4) < 2).expand(1, 1, 4, 4)
    whole = pasted(samples, given, known)
    assert whole[0, 0, 0].tolist() == [0, 0, 255, 255]
    found = seam(samples, whole, given, known)
    assert found == {"jump": 2.0, "jump_given": 0.0, "known_rmse": 2.0}
