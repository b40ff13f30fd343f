"""Maps of the class of each pixel beside images: reading, pairing, flips, a run from the command line, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.conditioners import Clean, SemanticMap
from denoiselab.data import ImageFolder
from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.data.loading.batches import Reader
from denoiselab.data.loading.datamodule import augmented


def write(root, number=40, size=(8, 8)):
    """Grey images whose values are 20 times their maps' classes, in two folders."""
    generator = np.random.default_rng(0)
    for kind in ("images", "maps"):
        for inner in "ab":
            (root / kind / inner).mkdir(parents=True)
    for i in range(number):
        classes = generator.integers(0, 4, size).astype(np.uint8)
        name = f"{'ab'[i % 2]}/{i:02d}"
        Image.fromarray(classes * 20).save(root / "images" / f"{name}.png")
        image = Image.fromarray(classes)
        if i % 3 == 0:
            image = image.convert("P")
            image.putdata(classes.flatten().tolist())
        image.save(root / "maps" / f"{name}.png")


def folder(root, cache, **options):
    given = {"name": "some", "shape": [1, 8, 8], "num_classes": None, "validation": 0.2, "cache_dir": str(cache)}
    return ImageFolder(root=str(root / "images"), maps=str(root / "maps"), **{**given, **options})


@pytest.mark.parametrize("memory_limit", [2.0, 0.0])
def test_maps_follow_their_images(memory_limit, tmp_path):
    write(tmp_path)
    train, held = folder(tmp_path, tmp_path / "cache", memory_limit=memory_limit, workers=0, size=20).load()
    assert (len(train), len(held) > 0) == (20, True)
    for part in (train, held):
        index = torch.arange(len(part)).flip(0)
        assert torch.equal(part.maps(index) * 20, part.stored(index)[:, 0].long())
    batch = Reader(train, seed=1)[range(16)]
    out = augmented(batch, 1, HorizontalFlip(except_classes=[1]))
    images = ((out["images"] + 1) * 127.5).round().long()[:, 0]
    assert torch.equal(out["maps"] * 20, images)
    assert not torch.equal(out["maps"], batch["maps"])
    plain, _ = folder(tmp_path, tmp_path / "cache", memory_limit=memory_limit, workers=0, size=20).load()
    assert plain.fingerprint == train.fingerprint
    without = ImageFolder(
        root=str(tmp_path / "images"), name="some", shape=[1, 8, 8], num_classes=None, cache_dir=str(tmp_path / "cache")
    )
    assert without.load()[0].maps is None


def test_maps_are_cropped_as_images_are(tmp_path):
    write(tmp_path, number=4, size=(16, 24))
    maps = folder(tmp_path, tmp_path / "cache", resize="center_crop").load()[0].maps
    classes = np.random.default_rng(0).integers(0, 4, (16, 24))
    # Of rows and columns that are halved, nearest neighbours keep the second ones; of 12 columns the middle 8 remain.
    assert np.array_equal(maps(torch.tensor([0]))[0].numpy(), classes[1::2, 1::2][:, 2:10])


def test_pixels_of_no_class_are_zeros():
    maps = torch.tensor([[[0, 1], [255, 1]]]).repeat_interleave(2, 1).repeat_interleave(2, 2)
    cond = SemanticMap([1, 4, 4], classes=2, factor=2, ignored=255).of(maps, torch.device("cpu"))
    assert cond.image[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]]
    with pytest.raises(
        ValueError, match=r"conditioner\.classes=2: a semantic map has the number 255; allowed are 0 to 1"
    ):
        SemanticMap([1, 4, 4], classes=2, factor=2).given(Clean(torch.zeros(1, 1, 4, 4), torch.zeros(1), maps=maps))


def test_a_model_of_maps_trains_and_samples_from_the_command_line(tmp_path, invoke):
    write(tmp_path, size=(8, 8))
    options = ["debug=fast_dev_run", "network.channels=8", "network.groups=4", "traceback=false", "logger=none"]
    options += ["trainer.detect_anomaly=false", "network=adm", "network.multipliers=[1]", "network.blocks=1"]
    options += ["network.attention_levels=[]", "network.head_channels=8", "evaluation.samplers=[ddim]"]
    options += ["evaluation.extractor.epochs=1", "evaluation/extractor=classifier", "evaluation.diversity=false"]
    options += ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.shape=[1,8,8]", "data.workers=0"]
    options += [f"data.cache_dir={tmp_path / 'cache'}", f"paths.cache_dir={tmp_path / 'cache'}", "data.validation=0.3"]
    options += ["conditioner=semantic_map", "conditioner.classes=4", f"paths.run_dir={tmp_path / 'run'}"]
    maps = f"data.maps={tmp_path / 'maps'}"
    result = invoke("train.py", *options)
    assert "the data have no maps; give data=image_folder data.maps=<folder>" in result.last
    result = invoke("train.py", *options, maps, "augmentation=shift")
    assert "augmentation=Shift: the maps of data.maps cannot follow it; choose augmentation=flip or null" in result.last
    result = invoke("train.py", *options, maps, "augmentation=flip")
    assert result.code == 0, result.err
    drawn = ["num_samples=4", "sampler.steps=2", "format=npz", f"out={tmp_path / 'out'}"]
    result = invoke("sample.py", f"ckpt={tmp_path / 'run'}", *drawn)
    assert result.code == 0, result.err


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path, number=4)
    (tmp_path / "maps" / "b" / "01.png").unlink()
    with pytest.raises(ValueError, match=r"b/01\.png has no map \(1 such\); each image needs a PNG of its name"):
        folder(tmp_path, tmp_path / "cache").load()
    with pytest.raises(ValueError, match=r"data\.resize=stretch: maps follow none and center_crop alone"):
        folder(tmp_path, tmp_path / "cache", resize="stretch").load()
    Image.new("RGB", (8, 8)).save(tmp_path / "maps" / "b" / "01.png")
    Image.new("L", (9, 8)).save(tmp_path / "maps" / "a" / "00.png")
    (tmp_path / "maps" / "a" / "02.png").write_bytes(b"")
    maps = folder(tmp_path, tmp_path / "cache").load()[0].label_maps
    for row, says in ((2, "it is of the mode RGB"), (0, "it is 8 x 9, and images are 8 x 8"), (1, "cannot identify")):
        with pytest.raises(ValueError, match=rf"data\.maps: .*: {says}"):
            maps(torch.tensor([row]))
