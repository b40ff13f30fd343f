"""Colour emoji with captions: the images of an npm package, or the bitmaps of their font."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import Reopened, Strings, identity
from denoiselab.data.sources.image_folder import FileRecords
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import missing_files, require_package

_TONES = {
    0x1F3FB: "light skin tone",
    0x1F3FC: "medium-light skin tone",
    0x1F3FD: "medium skin tone",
    0x1F3FE: "medium-dark skin tone",
    0x1F3FF: "dark skin tone",
}
_VARIATION_SELECTOR = 0xFE0F  # selects colour; has no image
_COMPONENT = "Component"  # category of separate skin tones and hair, which are left out


class _Picture(NamedTuple):
    """File or glyph, caption and category of an emoji."""

    place: str
    caption: str
    category: str


class _FontRecords(Reopened):
    """Glyphs of a font with bitmaps."""

    files = ()

    def __init__(self, path: Path, pictures: Sequence[_Picture], digest: bytes) -> None:
        self.name, self._digest = str(path), digest
        self._places = Strings(picture.place for picture in pictures)
        self.captions = Strings(picture.caption for picture in pictures)
        self.labels, self.classes = _categories(pictures)

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _bitmaps(self) -> Any:
        return _opened(Path(self.name))["CBDT"].strikeData[0]

    @property
    def identity(self) -> str:
        """sha256 of the glyphs' names, labels, captions, and the font's own checksums."""
        return identity(self._places, self.labels, self.captions, self._digest)

    def describe(self, i: int) -> str:
        return f"glyph {self._places[i]} of {self.name}"

    def image(self, i: int) -> Image.Image:
        return open_image(self._bitmaps[self._places[i]].imageData)


def _categories(pictures: Sequence[_Picture]) -> tuple[Tensor, Sequence[str]]:
    """Labels `(N,)` int64, and the sorted categories that they number."""
    classes = sorted({picture.category for picture in pictures} - {""})
    numbers = {category: number for number, category in enumerate(classes)} | {"": 0}
    return torch.tensor([numbers[picture.category] for picture in pictures], dtype=torch.int64), classes


@dataclass(kw_only=True)
class Emoji(ImageSource):
    """1,906 emoji, 64x64, with captions and 9 categories, of the npm package emoji-datasource-google or -twitter.

    Licence: Google's images (Noto) are under Apache-2.0, Twitter's (Twemoji) under CC BY 4.0, the names under MIT;
    copies must keep the notice. Source: github.com/iamcal/emoji-data.

    Args:
        root: The package of `npm pack emoji-datasource-google@16.0.0`, unpacked: the folder of emoji.json and
            `img/<style>/64`.
        style: google or twitter.
        skin_tones: Add the variants by skin tone, 1,875 more, most of them people.
    """

    root: str
    style: Literal["google", "twitter"] = "google"
    skin_tones: bool = False

    def records(self) -> FileRecords:
        root = Path(self.root)
        folder, table = root / "img" / self.style / "64", root / "emoji.json"
        package = f"emoji-datasource-{self.style}"
        if not (folder.is_dir() and table.is_file()):
            expected = f"emoji.json and the folder img/{self.style}/64 of the npm package {package}"
            raise missing_files(self.name, root, expected, f"npm pack {package}@16.0.0, then unpack it.")
        try:
            pictures = list(self._pictures(json.loads(table.read_text("utf-8"))))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{table}: it is not the table of {package}.") from None
        lacking = [picture.place for picture in pictures if not (folder / picture.place).is_file()]
        if lacking or not pictures:
            first = f"it lacks {len(lacking):,} images, the first {lacking[0]}" if lacking else "it lists no image"
            raise ValueError(f"data.root={self.root}: {first}; unpack all of {package}.")
        names, captions = [picture.place for picture in pictures], [picture.caption for picture in pictures]
        labels, classes = _categories(pictures)
        key = identity((f"{name} {(folder / name).stat().st_size}" for name in names), labels, captions)
        return FileRecords(folder, Strings(names), labels, classes, Strings(captions), key)

    def _pictures(self, table: Sequence[dict[str, Any]]) -> Iterator[_Picture]:
        for entry in table:
            if entry["category"] == _COMPONENT:
                continue
            variants = entry.get("skin_variations", {}) if self.skin_tones else {}
            for tones, variant in (("", entry), *variants.items()):
                if variant[f"has_img_{self.style}"]:
                    named = [entry["name"].lower(), *(_TONES[int(tone, 16)] for tone in tones.split("-") if tone)]
                    file = Path(variant["image"]).name  # never outside the folder
                    yield _Picture(file, ", ".join(named), entry["category"])


@dataclass(kw_only=True)
class EmojiFont(ImageSource):
    """The bitmaps of an installed Noto Color Emoji font, 128x128, with captions and 9 categories.

    Needs the extra `emoji`. Licence: the font is under the SIL Open Font License 1.1, Unicode's table of names under
    the Unicode License.

    Args:
        font: File of a font with CBDT bitmaps.
        names: Unicode's emoji-test.txt, with names and categories of all emoji, including flags and variants; None uses
            the emoji of a single code point, with the names in Python's unicodedata and without categories.
        skin_tones: Add the variants by skin tone.
    """

    font: str
    names: str | None
    skin_tones: bool = False

    def records(self) -> _FontRecords:
        path = Path(self.font)
        if not path.is_file():
            raise ValueError(
                f"data.font={self.font}: there is no such file; Debian's package fonts-noto-color-emoji installs it in "
                "/usr/share/fonts/truetype/noto."
            )
        font = _opened(path)
        bitmaps, glyphs, ligatures = font["CBDT"].strikeData[0], font.getBestCmap(), _ligatures(font)
        named = _singles(glyphs) if self.names is None else _listed(Path(self.names))
        pictures = []
        for codes, caption, category in named:
            parts = tuple(glyphs.get(code, "") for code in codes)
            glyph = parts[0] if len(parts) == 1 else ligatures.get(parts, "")
            if glyph in bitmaps and (self.skin_tones or not _TONES.keys() & set(codes)):
                pictures.append(_Picture(glyph, caption, category))
        if not pictures:
            raise ValueError(f"data.font={self.font}: it has no bitmap of any emoji named in {self.names}.")
        head = font["head"]
        return _FontRecords(path, pictures, f"{head.checkSumAdjustment} {head.fontRevision}".encode())


def _opened(path: Path) -> Any:
    """A font with bitmaps."""
    fonts = require_package("fontTools.ttLib", "emoji_font", "emoji")
    with contextlib.suppress(fonts.TTLibError):
        font = fonts.TTFont(path)
        if "CBDT" in font and "GSUB" in font:
            return font
    raise ValueError(f"data.font={path}: it is not a font with CBDT bitmaps, such as NotoColorEmoji.ttf.")


def _ligatures(font: Any) -> dict[tuple[str, ...], str]:
    """Sequences of glyphs to their ligature."""
    return {
        (first, *ligature.Component): ligature.LigGlyph
        for lookup in font["GSUB"].table.LookupList.Lookup
        for table in lookup.SubTable
        for first, ligatures in getattr(table, "ligatures", {}).items()
        for ligature in ligatures
    }


def _listed(path: Path) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """Code points, name and category of each fully qualified emoji of emoji-test.txt."""
    if not path.is_file():
        raise ValueError(
            f"data.names={path}: there is no such file; Debian's package unicode-data installs emoji-test.txt in "
            "/usr/share/unicode/emoji, and it is at unicode.org/Public/emoji; null works without it."
        )
    category, found = "", False
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("# group: "):
            category = line.removeprefix("# group: ")
        codes, semicolon, rest = line.partition(";")
        if semicolon and rest.split("#")[0].strip() == "fully-qualified" and category != _COMPONENT:
            found = True
            points = (int(code, 16) for code in codes.split())
            name = rest.split("#", 1)[1].split(maxsplit=2)[2]  # after the emoji and its version
            yield tuple(point for point in points if point != _VARIATION_SELECTOR), name, category
    if not found:
        raise ValueError(f"data.names={path}: it is not Unicode's emoji-test.txt.")


def _singles(glyphs: dict[int, str]) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """Code point and Python's name of each emoji of one code point."""
    for code in sorted(glyphs):
        name = unicodedata.name(chr(code), "")
        # Symbols beyond ASCII, except the letters of flags and separate hair.
        symbol = code > 0x7F and unicodedata.category(chr(code)) in ("So", "Sm", "Po")
        if symbol and name and not name.startswith(("REGIONAL", "EMOJI COMPONENT")):
            yield (code,), name.lower(), ""
