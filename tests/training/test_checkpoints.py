import pytest

from denoiselab.files import atomic, write_text
from denoiselab.training.checkpoints import CheckpointError, read_checkpoint


def test_atomic_writes_all_or_nothing(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), atomic(path, "w") as file:  # noqa: PT012
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or truncated, or not a checkpoint"):
        read_checkpoint(path)
