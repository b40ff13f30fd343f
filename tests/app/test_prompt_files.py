"""Files of prompts."""

import pytest

from denoiselab.app.config.prompts import read_prompts, with_prompts
from denoiselab.errors import BadInput


def test_lines_are_prompts_in_their_order(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeff  a dog \r\nécole, 学校\r\na dog\n".encode())
    assert read_prompts(file) == ["a dog", "école, 学校", "a dog"]
    node = {"prompts": None, "classes": None}
    assert with_prompts({"a": 1, "conditioner": {**node, "prompts_file": str(file)}}) == {
        "a": 1,
        "conditioner": {"prompts": read_prompts(file), "classes": None, "prompts_file": None},
    }
    for same in ({"a": 1}, {"conditioner": None}, {"conditioner": {**node, "prompts_file": None}}):
        assert with_prompts(same) == same


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\n\n b\n \t\n", "blank lines: 2, 4; each line"),
        (b"\n" * 9, "blank lines: 1, 2, 3, 4, 5 and 4 more;"),
        (b"", "blank lines: 1;"),
        ("é".encode("latin-1"), "byte 0 is not of UTF-8"),
    ],
)
def test_blank_lines_and_other_encodings_are_refused(tmp_path, content, says):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=f"conditioner.prompts_file={file}: {says}"):
        read_prompts(file)


def test_a_missing_file_and_two_sources_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"prompts_file=/nowhere: cannot be read \(No such file or directory\)"):
        read_prompts(tmp_path.__class__("/nowhere"))
    with pytest.raises(BadInput, match=r"conditioner.prompts and conditioner.prompts_file=x: give one of them"):
        with_prompts({"conditioner": {"prompts": ["a"], "prompts_file": "x"}})
