"""Images of 1 to 16 bits a value: in all formats they come out as bright as they are, or a sentence asks."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_sources import load, only

from denoiselab.data import Arrays, ImageFolder

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def values(bits, channels=None):
    """Numbers of all sizes up to the largest, which stands first."""
    shape = (8, 8) if channels is None else (8, 8, channels)
    out = np.random.default_rng(bits).integers(0, 2**bits, shape, np.uint16)
    out[0, 0] = 2**bits - 1
    return out


def nearest(numbers, bits):
    """Round half up, in double precision, as `(C, H, W)`."""
    out = np.floor(numbers.astype(np.float64) * 255 / (2**bits - 1) + 0.5).astype(np.uint8)
    return torch.from_numpy(out[None] if out.ndim == 2 else out.transpose(2, 0, 1).copy())


def png(numbers, bits):
    """A PNG file of 16 bits, or of 1, 2 or 4, after its specification; Pillow writes no such colours."""
    height, width = numbers.shape[:2]
    kind = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(numbers.shape[-1])}[numbers.ndim]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in numbers]
    else:
        step = 8 // bits
        packed = sum(numbers[:, k::step].astype(np.uint8) << (8 - bits * (k + 1)) for k in range(step))
        rows = [row.tobytes() for row in packed]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def tiff(numbers, bits, photometric=1, order="<"):
    """An uncompressed TIFF file of one strip; 12 bits are packed, two values in three bytes."""
    height, width = numbers.shape[:2]
    channels = 1 if numbers.ndim == 2 else numbers.shape[2]
    if bits == 12:
        a, b = numbers.reshape(-1, 2).T.astype(np.uint32)
        content = np.stack((a >> 4, (a & 15) << 4 | b >> 8, b & 255), 1).astype(np.uint8).tobytes()
    else:
        content = numbers.astype(f"{order}u2").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, channels), (278, 4, height), (279, 4, len(content))]
    extra = b""
    if channels == 3:  # three numbers do not fit into a tag
        extra, tags[2] = struct.pack(order + "3H", bits, bits, bits), (258, 3, None)
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(content) + len(extra))
    out += content + extra + struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        count = 3 if value is None else 1
        packed = (
            struct.pack(order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,)))
            if value is not None
            else None
        )
        out += struct.pack(order + "HHI", tag, kind, count) + (packed or struct.pack(order + "I", 8 + len(content)))
    return out + struct.pack(order + "I", 0)


def pgm(numbers, largest, magic=b"P5"):
    head = magic + f"\n8 8\n{largest}\n".encode()
    if magic in (b"P2", b"P3"):
        return head + " ".join(map(str, numbers.ravel().tolist())).encode()
    return head + numbers.astype(">u2" if largest > 255 else np.uint8).tobytes()


GREYS = {
    "png": ("a.png", lambda x: png(x, 16)),
    "tiff": ("a.tif", lambda x: tiff(x, 16)),
    "tiff, big-endian": ("a.tif", lambda x: tiff(x, 16, order=">")),
    "pgm": ("a.pgm", lambda x: pgm(x, 65535)),
    "pgm, as text": ("a.pgm", lambda x: pgm(x, 65535, b"P2")),
}


@pytest.mark.parametrize("kind", GREYS)
def test_fewer_bits_than_their_container_are_asked_for_and_then_scaled(kind, tmp_path):
    name, write = GREYS[kind]
    for bits in (9, 10, 12, 14, 15):
        numbers = values(bits)
        with pytest.raises(ValueError, match=rf"{name}: its largest .* is {2**bits - 1}, .* data\.bit_depth={bits} or"):
            only(tmp_path, write(numbers), name, shape=GREY, bad_images="skip")
        assert torch.equal(only(tmp_path, write(numbers), name, shape=GREY, bit_depth=bits), nearest(numbers, bits))
        dark = only(tmp_path, write(numbers), name, shape=GREY, bit_depth=16)
        assert torch.equal(dark, nearest(numbers, 16))
        advice = rf"more than the {2 ** (bits - 1) - 1} of data\.bit_depth={bits - 1}; .* set data\.bit_depth={bits} or"
        with pytest.raises(ValueError, match=rf"its largest value is {2**bits - 1}, {advice}"):
            only(tmp_path, write(numbers), name, shape=GREY, bit_depth=bits - 1)
    assert torch.equal(only(tmp_path, write(values(16)), name, shape=GREY), nearest(values(16), 16))


def test_what_a_file_says_of_its_range_is_taken(tmp_path):
    for bits in (10, 12, 14):
        for magic in (b"P5", b"P2"):
            found = only(tmp_path, pgm(values(bits), 2**bits - 1, magic), "a.pgm", shape=GREY)
            assert torch.equal(found, nearest(values(bits), bits))
    (tmp_path / "one" / "a.pgm").unlink()
    for depth in (None, 12, 16):
        assert torch.equal(
            only(tmp_path, tiff(values(12), 12), "a.tif", shape=GREY, bit_depth=depth), nearest(values(12), 12)
        )
    (tmp_path / "one" / "a.tif").unlink()
    for bits in (1, 2, 4):
        for depth in (None, bits, 8):
            found = only(tmp_path, png(values(bits), bits), "a.png", shape=GREY, bit_depth=depth)
            assert torch.equal(found, nearest(values(bits), bits))
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 10, 20, 30])
    file = io.BytesIO()
    palette.save(file, "png", bits=2)
    assert only(tmp_path, file.getvalue(), "a.png", bit_depth=2)[:, 0, :4].T.tolist() == [
        [0, 0, 0],
        [255, 0, 0],
        [0, 255, 0],
        [10, 20, 30],
    ]


def test_white_is_zero(tmp_path):
    found = only(tmp_path, tiff(values(16), 16, photometric=0), "a.tif", shape=GREY)
    assert torch.equal(found, 255 - nearest(values(16), 16))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_sixteen_bits(channels, tmp_path):
    numbers = values(12, channels)
    if channels != 3:
        numbers[..., -1] = 65535  # opaque
    shape = COLOUR if channels > 2 else GREY
    with pytest.raises(ValueError, match=r"a\.png: its largest 16-bit value is 4095"):
        only(tmp_path, png(numbers, 16), shape=shape)
    expected = nearest(numbers[..., :3] if channels > 2 else numbers[..., 0], 12)
    assert torch.equal(only(tmp_path, png(numbers, 16), shape=shape, bit_depth=12), expected)
    with pytest.raises(
        ValueError, match=r"more than the 2047 of data\.bit_depth=11; .* set data\.bit_depth=12 or more"
    ):
        only(tmp_path, png(numbers, 16), shape=shape, bit_depth=11)
    whole = values(16, channels)
    whole[..., -1] = 65535
    found = only(tmp_path, png(whole, 16), shape=shape)
    upper = whole[..., :3] if channels > 2 else whole[..., 0]  # Pillow's, where all 16 bits are used
    assert torch.equal(found, nearest(upper >> 8, 8))


def test_colours_whose_lower_bits_pillow_drops_are_refused_unless_all_are_used(tmp_path):
    for name, content in (("a.tif", tiff(values(12, 3), 16, 2)), ("a.ppm", pgm(values(12, 3), 65535, b"P6"))):
        for depth in (None, 12):
            with pytest.raises(ValueError, match=rf"{name}: Pillow reads only the upper 8 .* data\.bit_depth=16"):
                only(tmp_path, content, name, bit_depth=depth)
        assert only(tmp_path, content, name, bit_depth=16).max() == 15 + name.endswith("ppm")
        (tmp_path / "one" / name).unlink()
    assert only(tmp_path, tiff(values(16, 3), 16, 2), "a.tif").max() == 255
    (tmp_path / "one" / "a.tif").unlink()
    assert only(tmp_path, pgm(values(12, 3), 4095, b"P6"), "a.ppm").max() == 255


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_arrays_of_fewer_bits(dtype, layout, tmp_path):
    numbers = values(12, None if layout == "NHW" else 3)
    stored = numbers.transpose(2, 0, 1) if layout == "NCHW" else numbers
    np.save(tmp_path / "a.npy", stored[None].astype(dtype))
    shape = GREY if layout == "NHW" else COLOUR
    with pytest.raises(ValueError, match=r"image 0 of .*a\.npy: its largest .* 4095"):
        load(Arrays, tmp_path / "a.npy", shape=shape)
    found = load(Arrays, tmp_path / "a.npy", shape=shape, bit_depth=12)
    assert torch.equal(found.stored(torch.tensor([0]))[0], nearest(numbers, 12))
    undecoded = load(Arrays, tmp_path / "a.npy", shape=shape, bit_depth=12, first_pass=False, workers=0)
    assert torch.equal(undecoded.stored(torch.tensor([0]))[0], nearest(numbers, 12))


def test_bytes_of_fewer_bits_are_named_and_scaled_on_request(tmp_path, caplog):
    numbers = values(4).astype(np.uint8)
    np.save(tmp_path / "a.npy", numbers[None])
    assert load(Arrays, tmp_path / "a.npy", shape=GREY).stored(torch.tensor([0])).max() == 15
    assert "is above 15, and they are taken as 0 to 255; if they have 4 bits, set data.bit_depth=4" in caplog.text
    caplog.clear()
    expected = nearest(numbers, 4)
    assert torch.equal(load(Arrays, tmp_path / "a.npy", shape=GREY, bit_depth=4).stored(torch.tensor([0]))[0], expected)
    assert torch.equal(only(tmp_path, Image.fromarray(numbers), shape=GREY, bit_depth=4), expected)
    assert not caplog.records
    np.save(tmp_path / "b.npy", (numbers > 7)[None])
    assert load(Arrays, tmp_path / "b.npy", shape=GREY).stored(torch.tensor([0])).unique().tolist() == [0, 255]
    with pytest.raises(ValueError, match=r"data\.bit_depth=17: it must be from 1 to 16"):
        load(ImageFolder, tmp_path, bit_depth=17)


def test_a_scaled_image_stands_upright_too(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    numbers = values(16)[:4]
    small = nearest(numbers, 16)[0].numpy()
    for array, name, kind in ((numbers, "a.png", "png"), (numbers, "a.tif", "tiff"), (small, "b.tif", "tiff")):
        file = io.BytesIO()
        Image.fromarray(array).save(file, kind, exif=exif)
        found = only(tmp_path, file.getvalue(), name, shape=(1, 8, 4))
        (tmp_path / "one" / name).unlink()
        assert torch.equal(found[0], torch.from_numpy(np.rot90(small, -1).copy()))
