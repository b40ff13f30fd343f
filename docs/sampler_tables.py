"""Writes the columns of docs/pages/samplers.md that follow from the code: order, noise, network calls, grid.

    python docs/sampler_tables.py            # rewrites the page's tables in place
    python docs/sampler_tables.py --check    # exit code 1 if they are out of date

A row begins with the name of a choice of conf/sampler. What is written by hand is its last column. Calls are counted in
runs on a mixture whose predictions are exact; orders are those that the classes declare, which the tests measure.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

import denoiselab
from denoiselab import choices
from denoiselab.noise import Noise
from denoiselab.samplers import Sampler, Tally
from denoiselab.schedules import VPLinear
from denoiselab.testing.oracles import F64, mixture
from denoiselab.testing.samplers import prepared

PAGE = Path(__file__).parent / "pages" / "samplers.md"
ROW = re.compile(r"^\| \[?`(?P<name>\w+)`.* \| (?P<text>[^|]*) \|$", re.MULTILINE)
TABLE = re.compile(r"^\| `sampler=` \|.*(?:\n\|.*)+", re.MULTILINE)
HEADER = "| `sampler=` | order | noise | calls for S steps | grid | what |\n| --- | --- | --- | --- | --- | --- |"


def counted(sampler: Sampler, steps: int | None) -> int:
    """Network calls of a run of so many steps; None for the sampler's own number."""
    tally = Tally()
    sampler(tally.counted(mixture()), VPLinear(), (1,), Noise(0, torch.arange(2)), steps=steps, dtype=F64)
    return tally.calls


def calls(sampler: Sampler) -> str:
    """The calls of S steps as a formula, which is measured at 10 and 11, and their number at 10."""
    if sampler.adaptive:
        return f"by tolerance ({counted(sampler, None)} here)"
    ten, eleven = (counted(sampler, steps) for steps in (10, 11))
    slope, offset = eleven - ten, 11 * ten - 10 * eleven
    first = "S" if slope == 1 else f"{slope} S"
    last = f" {'+' if offset > 0 else '-'} {abs(offset)}" if offset else ""
    return f"{first}{last}" if ten == 10 else f"{first}{last} (10: {ten})"


def line(name: str, text: str) -> str:
    """The row of a choice, with the text that was written by hand."""
    node = choices.node("sampler", name)
    link = f"[`{name}`][{node['_target_']}]"
    if "???" in map(str, node.values()):  # needs a file
        return f"| {link} | its own | no | S | its own | {text} |"
    sampler = denoiselab.sampler(name)
    sampler = prepared(sampler)
    order = "none" if sampler.convergence_order is None else str(sampler.convergence_order)
    order = f"weak\N{NO-BREAK SPACE}{order}" if sampler.stochastic and order != "none" else order
    noise = "yes" if sampler.stochastic else "no"
    return f"| {link} | {order} | {noise} | {calls(sampler)} | {grid(name)} | {text} |"


def grid(name: str) -> str:
    """The name of the default grid in the YAML of a choice, or in that of which it is an alias."""
    text = (choices.folder() / "sampler" / f"{name}.yaml").read_text(encoding="utf-8")
    own = re.search(r"/spacing@spacing: (\w+)", text)
    return f"`{own[1]}`" if own else grid(re.search(r"^  - (\w+)$", text, re.MULTILINE)[1])


def written(page: str) -> str:
    """The page with its tables up to date.

    Raises:
        SystemExit: If a sampler is missing, is there twice, or is none of conf/sampler.
    """
    there = [row["name"] for table in TABLE.findall(page) for row in ROW.finditer(table)]
    names = choices.names("sampler")
    wrong = sorted(set(names) ^ set(there)) or sorted(name for name in set(there) if there.count(name) > 1)
    if wrong:
        raise SystemExit(f"{PAGE.name}: each choice of conf/sampler has one row; look at {', '.join(wrong)}.")
    return TABLE.sub(
        lambda table: "\n".join([HEADER, *(line(row["name"], row["text"]) for row in ROW.finditer(table[0]))]), page
    )


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    found = PAGE.read_text(encoding="utf-8")
    new = written(found)
    if parser.parse_args().check:
        sys.exit(int(new != found))
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
