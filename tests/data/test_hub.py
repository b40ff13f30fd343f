import io
import pickle
import socket

import datasets
import huggingface_hub
import pytest
import torch
from PIL import Image

from denoiselab.data import HuggingFace


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(grey):
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def rows(greys, **columns):
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["no", "yes"])}
    features |= {"text": datasets.Value("string"), "animal": datasets.Value("string")}
    content = {
        "picture": [png(grey) for grey in greys],
        "kind": [grey % 2 for grey in greys],
        "text": [f"grey {grey}" for grey in greys],
        "animal": ["dog" if grey > 11 else "cat" for grey in greys],
        **columns,
    }
    return datasets.Dataset.from_dict(content, datasets.Features(features))


def of(tmp_path, path, **options):
    options = {"image": "picture", "num_classes": None, **options}
    return HuggingFace(name="it", shape=[1, 8, 8], path=str(path), cache_dir=str(tmp_path / "cache"), **options)


@pytest.fixture(params=["parquet file", "parquet folder", "save_to_disk"])
def stored(request, tmp_path):
    if request.param == "save_to_disk":
        datasets.DatasetDict(train=rows([10, 11, 12]), test=rows([20])).save_to_disk(tmp_path / "it")
        return tmp_path / "it"
    (tmp_path / "it").mkdir()
    rows([10, 11, 12]).to_parquet(tmp_path / "it" / "train-00000-of-00001.parquet")
    if request.param == "parquet file":
        return tmp_path / "it" / "train-00000-of-00001.parquet"
    rows([20]).to_parquet(tmp_path / "it" / "test-00000-of-00001.parquet")
    return tmp_path / "it"


def test_columns_are_taken_by_name(tmp_path, stored):
    data = of(tmp_path, stored, label="kind", caption="text", num_classes=2)
    records = pickle.loads(pickle.dumps(data.records()))
    assert [records.image(i).getpixel((3, 3)) for i in range(3)] == [10, 11, 12]
    assert (records.labels.tolist(), list(records.classes)) == ([0, 1, 0], ["no", "yes"])
    assert list(records.captions) == ["grey 10", "grey 11", "grey 12"]
    assert records.identity == data.records().identity
    if stored.is_dir():
        held_out = of(tmp_path, stored, held_out_split="test").held_out()
        assert [held_out.image(i).getpixel((0, 0)) for i in range(len(held_out))] == [20]
        assert held_out.identity != records.identity


def test_it_makes_a_data_set(tmp_path):
    rows([10, 11, 12]).to_parquet(tmp_path / "it.parquet")
    train, _ = of(tmp_path, tmp_path / "it.parquet", label="animal", validation=0.0).load()
    assert train.stored(torch.arange(3))[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert train.labels.tolist() == [0, 0, 1]


def test_what_the_identity_tells_apart(tmp_path):
    told = set()
    for number, (greys, columns) in enumerate([([1, 2], {}), ([1, 3], {}), ([1, 2], {"text": ["a", "b"]})]):
        rows(greys, **columns).to_parquet(tmp_path / f"{number}.parquet")
        told.add(of(tmp_path, tmp_path / f"{number}.parquet", caption="text").records().identity)
    assert len(told) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "pictures"}, r"data\.image=pictures: no such column; it has picture, kind, text, animal\."),
        ({"label": "class"}, r"data\.label=class: no such column"),
        ({"image": "kind"}, r"data\.image=kind: the column has type ClassLabel.*expected are images"),
    ],
)
def test_columns_that_are_none_are_refused(tmp_path, options, said):
    rows([1]).to_parquet(tmp_path / "it.parquet")
    with pytest.raises(ValueError, match=said):
        of(tmp_path, tmp_path / "it.parquet", **options).records()


@pytest.mark.parametrize("kind", ["folder", "folders", "save_to_disk", "file"])
def test_a_split_that_is_not_there_is_never_another(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "save_to_disk":
        rows([1, 2]).save_to_disk(path)
    elif kind == "file":
        path = tmp_path / "it.parquet"
        rows([1, 2]).to_parquet(path)
    else:
        for split, greys in (("train", [1, 2]), ("test", [3])):
            file = path / split / "0000.parquet" if kind == "folders" else path / f"{split}-0.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows(greys).to_parquet(file)
        held_out = of(tmp_path, path, held_out_split="test").held_out()
        assert [held_out.image(i).getpixel((0, 0)) for i in range(len(held_out))] == [3]
    assert len(of(tmp_path, path).records()) == 2
    for option in ("split", "held_out_split"):
        data = of(tmp_path, path, **{option: "validation"})
        with pytest.raises(ValueError, match=rf"data\.{option}=validation: Unknown split.*train"):
            data.records() if option == "split" else data.held_out()


def test_held_out_names_have_the_numbers_of_those_to_train_on(tmp_path):
    path = tmp_path / "it"
    datasets.DatasetDict(train=rows([10, 12]), test=rows([13]), more=rows([14], animal=["emu"])).save_to_disk(path)
    assert of(tmp_path, path, label="animal", held_out_split="test").held_out().labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"data\.label=animal: no training image is of the class emu"):
        of(tmp_path, path, label="animal", held_out_split="more").held_out()


def test_a_row_without_an_image_is_a_bad_one(tmp_path):
    rows([1, 2], picture=[png(1), None]).to_parquet(tmp_path / "it.parquet")
    with pytest.raises(ValueError, match=r"row 1 of .*: the row has no image"):
        of(tmp_path, tmp_path / "it.parquet").load()
    assert len(of(tmp_path, tmp_path / "it.parquet", bad_images="skip", validation=0.0).load()[0]) == 1


def test_columns_of_numbers_are_neither_classes_nor_captions(tmp_path):
    rows([1]).add_column("score", [0.5]).to_parquet(tmp_path / "it.parquet")
    with pytest.raises(ValueError, match=r"data\.label=score: the column must hold names, or whole numbers"):
        of(tmp_path, tmp_path / "it.parquet", label="score").records()
    with pytest.raises(ValueError, match=r"data\.caption=score: the column must hold texts, and has 0\.5"):
        of(tmp_path, tmp_path / "it.parquet", caption="score").records()


def test_nobody_is_asked_without_download(tmp_path, monkeypatch):
    for settings in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: asked.append(place))
    with pytest.raises(ValueError, match=r"data\.path=cifar10: .*data\.download=true"):
        of(tmp_path, "cifar10").records()
    assert not asked
    assert not datasets.config.HF_HUB_OFFLINE


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path=nobody/nothing: .*data\.download=true"):
        of(tmp_path, "nobody/nothing").records()
    (tmp_path / "text.txt").touch()
    with pytest.raises(ValueError, match=r"data\.path=.*text\.txt: it must be a \.parquet or \.arrow file"):
        of(tmp_path, tmp_path / "text.txt").records()
    datasets.DatasetDict(train=rows([1])).save_to_disk(tmp_path / "it")
    with pytest.raises(ValueError, match=r"data\.split=validation: Unknown split .*train"):
        of(tmp_path, tmp_path / "it", split="validation").records()


def test_a_folder_that_names_files_elsewhere_fetches_none(tmp_path, monkeypatch):
    """Not even where the user lets names on the hub be fetched."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.parquet"
        (tmp_path / "it").mkdir()
        rows([10]).to_parquet(tmp_path / "it" / "train.parquet")
        head = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {address}\n"
        for name, text in (("README.md", f"---\n{head}---\n"), (".huggingface.yaml", head)):
            (tmp_path / "it" / name).write_text(text)
            with pytest.raises(ValueError, match=rf"data\.path=.*it: it refers to {address};"):
                of(tmp_path, tmp_path / "it", download=True).records()
            (tmp_path / "it" / name).unlink()
        with pytest.raises(TimeoutError):  # nobody called
            server.accept()
