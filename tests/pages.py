"""README and the pages of docs/: their commands and snippets, and a folder in which these are tried."""

import re
import shlex
import shutil

import numpy as np
from conftest import ROOT
from PIL import Image

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs" / "pages").rglob("*.md")))
    if path.parent.name != "reference"
}
_PROGRAMS = r"python|torchrun|pytest|wandb|pip|sample\.py|train\.py"


def snippets(page):
    """Its blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page):
    """Whole commands of its shell blocks, then of its text and tables; each once, without comments."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE))
    lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    inline = [" ".join(found.split()) for found in re.findall(rf"`((?:{_PROGRAMS})\s[^`]+)`", text)]
    plain = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in [*lines, *inline])
    return [*dict.fromkeys(line for line in plain if line)]


# What a reader puts in the place of what a page leaves open; of `logs/x/<run id>`, the newest run there.
OPEN = {
    "<run>/wandb": "logs/digits/run/wandb",
    "ckpt=...": "ckpt=<run>",
    "ckpt=RUN": "ckpt=<run>",
    "<another run>": "<run>",
    "<run or file>": "logs/digits/run",
    "sample.py ... ": "sample.py ckpt=<run> ",
    "train.py -m ... ": "train.py -m seed=0,1 ",
    "<its overrides>": "seed=0",
    "<team>": "team",
    "image_folder data.root=<folder>": "image_folder data.root=pictures",
    "data.root=<file>": "data.root=pictures.zip",
    "data.root=<.npy or .npz>": "data.root=pictures.npy",
    "data.root=<folder of .tar>": "data.root=shards",
    "data=... data.shape": "data=image_folder data.root=pictures data.shape",
    "data=...": "data=cifar10 data.root=absent",
    "out=<new folder>": "out=converted",
}
_OF_CLASSES = r"guid|conditioner\.classes"


def filled(text, folder):
    """A command or snippet with names in the place of what it leaves open."""
    for left_open, given in OPEN.items():
        text = text.replace(left_open, given)
    kind = "digits_conditional" if re.search(_OF_CLASSES, text) else "digits"
    text = text.replace("<run>", f"logs/{kind}/run").replace("logs/digits/<run id>", f"logs/{kind}/run")

    def newest(found):
        there = sorted(folder.glob(f"{found[1]}*/"), key=lambda path: path.stat().st_mtime)
        there = [path for path in there if found[1].endswith("sweep-") or not path.name.startswith("sweep-")]
        return str(there[-1].relative_to(folder)) if there else f"{found[1]}absent"

    text = re.sub(r"(logs/[\w/-]*?)<[^<>]*>", newest, text)
    return re.sub(r"<[^<>]*>", "absent", text)


def words(command, folder):
    """A command as a shell splits it."""
    return shlex.split(filled(command, folder))


def furnish(folder, run, conditional):
    """What the pages take for granted: finished runs, images, a mask, prompts."""
    for place, given in (("digits", run), ("digits_conditional", conditional)):
        shutil.copytree(given, folder / "logs" / place / "run")
    (folder / "logs" / "cache").symlink_to(run.parent / "cache")
    noise = np.random.default_rng(0)

    def draw(path, *shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(path)

    for number in range(40):
        draw(folder / "pictures" / "ab"[number % 2] / f"{number}.png", 64, 64, 3)
    shutil.make_archive(str(folder / "pictures"), "zip", folder / "pictures")
    (folder / "shards").mkdir()
    shutil.make_archive(str(folder / "shards" / "0"), "tar", folder / "pictures")
    np.save(folder / "pictures.npy", noise.integers(0, 256, (40, 1, 28, 28), dtype=np.uint8))
    for number in range(2):
        draw(folder / "folder" / f"{number}.png", 8, 8)
        draw(folder / "small" / f"{number}.png", 4, 4)
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255
    Image.fromarray(half).save(folder / "mask.png")
    (folder / "prompts.txt").write_text("a red apple\n")
