"""JSON files of ours carry their own checksum, others are read as they are."""

import json
import math
import random

import pytest

from denoiselab.files import matches_sum, read_json, write_json, write_sum

CONTENT = {"lam": [-5.25, 0.1, 1e-300, 7], "name": "Zürich", "none": None, "deep": {"a": [True, {"b": []}]}}


def test_every_flipped_bit_of_a_json_file_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    assert read_json(path) == CONTENT
    whole, rng, harmless = path.read_bytes(), random.Random(0), 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            content = read_json(path)
        except ValueError:
            continue
        harmless += 1
        kept = {key: value for key, value in content.items() if key in CONTENT}
        assert kept == CONTENT  # in white space, or in the name of the checksum itself
        assert len(content) - len(kept) <= 1
    assert harmless < 0.2 * len(whole)


def test_a_json_file_by_hand_is_read_and_an_edited_one_is_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT))
    assert read_json(path) == CONTENT
    write_json(path, CONTENT)
    edited = {**json.loads(path.read_text()), "name": "Basel"}
    path.write_text(json.dumps(edited))
    with pytest.raises(
        ValueError, match=r"changed since it was written; delete its entry 'checksum' to read it as it is"
    ):
        read_json(path)
    del edited["checksum"]
    path.write_text(json.dumps(edited))
    assert read_json(path)["name"] == "Basel"
    for text in ("[1]", "{", "[" * 10**5):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"not a JSON object|damaged, or not JSON"):
            read_json(path)


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == CONTENT


def test_a_checksum_beside_a_file_tells_whether_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)))
    assert matches_sum(path)  # there is none
    write_sum(path)
    assert matches_sum(path)
    path.write_bytes(bytes(range(255)) + b"\0")
    assert not matches_sum(path)
    for damaged in (b"", b"\xff\xfe"):
        path.with_name("a.bin.sha256").write_bytes(damaged)
        assert not matches_sum(path)
