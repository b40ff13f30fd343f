"""MNIST's files, with few images."""

import gzip

import numpy as np

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(path, array, zipped):
    head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = head + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_mnist(folder, zipped=True, train=6, test=4):
    end = ".gz" if zipped else ""
    written = {}
    for split, n in (("train", train), ("t10k", test)):
        written[split] = pixels(n, 28, 28), np.arange(n, dtype=np.uint8) % 10
        write_idx(folder / f"{split}-images-idx3-ubyte{end}", written[split][0], zipped)
        write_idx(folder / f"{split}-labels-idx1-ubyte{end}", written[split][1], zipped)
    return written
