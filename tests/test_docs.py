"""What the documents say of the code is true of the code."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_line_of_the_equation_table_stands_in_its_file() -> None:
    rows = re.findall(r"^\|.*\| `(worker/\S+)` \| `(.*)` \|$", (ROOT / "docs/algorithm.md").read_text(), re.MULTILINE)
    assert len(rows) == 12
    for file, line in rows:
        assert line in (ROOT / file).read_text(), f"{file} has no line {line}"
