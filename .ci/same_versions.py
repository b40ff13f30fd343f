"""Whether the tests run on what users get: reads what `pip install --report` would install for them."""

import importlib.metadata
import json
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

newest = {
    canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"]
    for item in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["install"]
}
needed = [Requirement(text) for text in importlib.metadata.requires("denoiselab") or ()]
names = [canonicalize_name(needs.name) for needs in needed if needs.marker is None]
other = {name: (newest[name], importlib.metadata.version(name)) for name in names}
other = {name: versions for name, versions in other.items() if versions[0] != versions[1]}
if other or not names:
    sys.exit(f"not as users have it (theirs, ours): {other}")
