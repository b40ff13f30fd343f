"""Texts of generated samples in a file, one a line."""

from __future__ import annotations

from pathlib import Path

from denoiselab.app.config.settings import Config
from denoiselab.errors import BadInput

_OPTION = "conditioner.prompts_file"

# Numbers of blank lines that are named.
_SHOWN = 5


def with_prompts(config: Config) -> Config:
    """A configuration whose file of prompts, if it names one, is replaced by the prompts in it.

    Raises:
        BadInput: If there are prompts beside it, or the file cannot be used.
    """
    node = config.get("conditioner") or {}
    path = node.get("prompts_file")
    if path is None:
        return config
    if node.get("prompts") is not None:
        raise BadInput(f"conditioner.prompts and {_OPTION}={path}: give one of them.")
    return {**config, "conditioner": {**node, "prompts": read_prompts(Path(str(path))), "prompts_file": None}}


def read_prompts(path: Path) -> list[str]:
    """The lines of a file in UTF-8, in their order, without spaces around them.

    Raises:
        BadInput: If there is no such file, it is in another encoding, or a line is blank.
    """
    try:
        text = path.expanduser().read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{_OPTION}={path}: byte {error.start} is not of UTF-8; save it in that encoding.") from None
    except OSError as error:
        raise BadInput(f"{_OPTION}={path}: cannot be read ({error.strerror}).") from None
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if blank := [number for number, line in enumerate(lines, 1) if not line]:
        more = f" and {len(blank) - _SHOWN:,} more" if len(blank) > _SHOWN else ""
        raise BadInput(
            f"{_OPTION}={path}: blank lines: {', '.join(map(str, blank[:_SHOWN]))}{more}; each line is the text of a "
            "sample, and the empty text is the null condition."
        )
    return lines
