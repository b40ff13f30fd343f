import io
import json
import pickle
from types import SimpleNamespace

import pytest
from PIL import Image

from denoiselab.data import Emoji, EmojiFont
from denoiselab.data.sources import emoji


def of(kind, **options):
    return kind(name="emoji", shape=[3, 32, 32], num_classes=None, **options)


def entry(name, image, category, **variants):
    skin = {tone: {"image": file, "has_img_google": True} for tone, file in variants.items()}
    return {"name": name, "image": image, "category": category, "has_img_google": True, "skin_variations": skin}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "img" / "google" / "64"
    folder.mkdir(parents=True)
    table = [
        entry("CRAB", "crab.png", "Animals & Nature"),
        entry("Waving Hand", "hand.png", "People & Body", **{"1F3FB": "light.png", "1F3FB-1F3FF": "both.png"}),
        entry("DARK", "dark.png", "Component"),
        {**entry("Unpictured", "none.png", "Symbols"), "has_img_google": False},
    ]
    for number, name in enumerate(("crab", "hand", "light", "both", "dark")):
        Image.new("RGBA", (64, 64), (number, 0, 0, 128)).save(folder / f"{name}.png")
    (tmp_path / "emoji.json").write_text(json.dumps(table))
    return tmp_path


def test_a_package_gives_pictures_captions_and_categories(package):
    records = pickle.loads(pickle.dumps(of(Emoji, root=str(package)).records()))
    assert list(records.captions) == ["crab", "waving hand"]
    assert [records.classes[label] for label in records.labels] == ["Animals & Nature", "People & Body"]
    assert [records.image(i).getpixel((0, 0)) for i in (0, 1)] == [(0, 0, 0, 128), (1, 0, 0, 128)]
    assert records.describe(1) == str(package / "img/google/64/hand.png")


def test_skin_tones_are_variants_with_captions_of_their_own(package):
    plain, toned = (of(Emoji, root=str(package), skin_tones=tones).records() for tones in (False, True))
    assert list(toned.captions)[2:] == [
        "waving hand, light skin tone",
        "waving hand, light skin tone, dark skin tone",
    ]
    assert toned.image(3).getpixel((0, 0))[0] == 3
    assert toned.identity != plain.identity == of(Emoji, root=str(package)).records().identity


def test_a_package_that_is_not_whole_is_refused(package, tmp_path):
    with pytest.raises(ValueError, match=r"data\.root=.*npm pack emoji-datasource-twitter"):
        of(Emoji, root=str(package), style="twitter").records()
    (package / "img/google/64/crab.png").unlink()
    with pytest.raises(ValueError, match=r"data\.root=.*lacks 1 images, the first crab\.png"):
        of(Emoji, root=str(package)).records()
    (package / "emoji.json").write_text('{"emoji": 1}')
    with pytest.raises(ValueError, match=r"emoji\.json: it is not the table"):
        of(Emoji, root=str(package)).records()


def test_names_of_files_never_leave_the_folder(package):
    (package / "emoji.json").write_text(json.dumps([entry("CRAB", "../../../etc/crab.png", "Animals & Nature")]))
    assert of(Emoji, root=str(package)).records().describe(0) == str(package / "img/google/64/crab.png")


NAMES = """# group: Smileys & Emotion
1F600 ; fully-qualified # x E1.0 grinning face
263A FE0F ; fully-qualified # x E0.6 smiling face
263A ; unqualified # x E0.6 smiling face
# group: Flags
1F1F8 1F1F1 ; fully-qualified # x E2.0 flag: Sierra Leone
# group: People & Body
1F44B 1F3FB ; fully-qualified # x E1.0 waving hand: light skin tone
1FAE8 ; fully-qualified # x E15.0 shaking face
# group: Component
1F3FB ; component # x E1.0 light skin tone
"""


@pytest.fixture
def font(monkeypatch):
    def bitmap(number):
        file = io.BytesIO()
        Image.new("RGBA", (136, 128), (number, 0, 0, 255)).save(file, "PNG")
        return SimpleNamespace(imageData=file.getvalue())

    class Font(dict):
        def getBestCmap(self):
            return {
                0x23: "hash",
                0x1F600: "grin",
                0x263A: "smile",
                0x1F1F8: "S",
                0x1F1F1: "L",
                0x1F44B: "hand",
                0x1F3FB: "light",
                0x1FAE8: "none",
            }

    def ligature(glyph, *rest):
        return SimpleNamespace(Component=list(rest), LigGlyph=glyph)

    def table(lookups):
        return SimpleNamespace(Lookup=[SimpleNamespace(SubTable=[SimpleNamespace(**fields)]) for fields in lookups])

    ligatures = [
        {"mapping": {}},
        {"ligatures": {"S": [ligature("SL", "L")], "hand": [ligature("hand_light", "light")]}},
    ]
    glyphs = ("hash", "grin", "smile", "SL", "hand_light", "hand", "S", "light")
    monkeypatch.setattr(
        emoji,
        "_opened",
        lambda path: Font(
            CBDT=SimpleNamespace(strikeData=[{glyph: bitmap(n) for n, glyph in enumerate(glyphs)}]),
            GSUB=SimpleNamespace(table=SimpleNamespace(LookupList=table(ligatures))),
            head=SimpleNamespace(checkSumAdjustment=1, fontRevision=2.0),
        ),
    )


def test_a_font_gives_what_unicodes_table_names_flags_and_all(tmp_path, font):
    path, names = tmp_path / "font.ttf", tmp_path / "emoji-test.txt"
    path.touch()
    names.write_text(NAMES)
    records = of(EmojiFont, font=str(path), names=str(names)).records()
    assert list(records.captions) == ["grinning face", "smiling face", "flag: Sierra Leone"]
    assert [records.classes[label] for label in records.labels] == ["Smileys & Emotion", "Smileys & Emotion", "Flags"]
    assert [records.image(i).getpixel((0, 0))[0] for i in range(3)] == [1, 2, 3]
    toned = of(EmojiFont, font=str(path), names=str(names), skin_tones=True).records()
    assert list(toned.captions)[3:] == ["waving hand: light skin tone"]
    assert toned.describe(3) == f"glyph hand_light of {path}"
    assert pickle.loads(pickle.dumps(toned)).identity == toned.identity != records.identity


def test_a_font_without_a_table_gives_single_code_points(tmp_path, font):
    path = tmp_path / "font.ttf"
    path.touch()
    records = of(EmojiFont, font=str(path), names=None).records()
    assert list(records.captions) == ["white smiling face", "waving hand sign", "grinning face"]
    assert (list(records.classes), records.labels.tolist()) == ([], [0, 0, 0])


def test_files_that_are_no_font_or_no_table_are_refused(tmp_path):
    path = tmp_path / "font.ttf"
    with pytest.raises(ValueError, match=r"data\.font=.*fonts-noto-color-emoji"):
        of(EmojiFont, font=str(path), names=None).records()
    path.write_text("no font")
    with pytest.raises(ValueError, match=r"data\.font=.*not a font with CBDT"):
        of(EmojiFont, font=str(path), names=None).records()


@pytest.mark.parametrize(("content", "said"), [(None, "unicode-data"), ("# nothing\n", "not Unicode's emoji-test")])
def test_a_table_that_is_none_is_refused(tmp_path, font, content, said):
    path, names = tmp_path / "font.ttf", tmp_path / "names.txt"
    path.touch()
    if content:
        names.write_text(content)
    with pytest.raises(ValueError, match=rf"data\.names=.*{said}"):
        of(EmojiFont, font=str(path), names=str(names)).records()
