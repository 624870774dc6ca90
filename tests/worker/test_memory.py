"""That memory which was freed is the system's again."""

import subprocess
import sys

import pytest

MIB = 1 << 20

# Large blocks, each with something small and lasting after it: in one heap, the last small one keeps all of it.
BLOCKS = """
import resource, torch
from pathlib import Path
from worker.memory import PAGE, RESIDENT, keep_little

def resident():
    return int(RESIDENT.read_text().split()[1]) * PAGE

{first}
torch.ones(6 << 20)  # 24 MiB, freed at once: from then on glibc by itself takes less than that from its heap
before, large, small = resident(), [], []
for _ in range(8):
    large.append(torch.ones(4 << 20))
    small.append(torch.ones(256 << 10))
taken = resident() - before
del large
print(taken, resident() - before)
"""


def held(first: str) -> tuple[int, int]:
    """Bytes that eight blocks of 16 MiB took in a process of their own, and that were left once they were freed."""
    program = BLOCKS.format(first=first)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    taken, left = map(int, done.stdout.split())
    return taken, left


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_large_blocks_are_given_back_as_they_are_freed() -> None:
    taken, left = held("keep_little()")
    assert taken > 120 * MIB
    assert left < 24 * MIB, "the small ones alone are 8"
    assert held("")[1] > 64 * MIB, "by itself it would keep them, and this test would show nothing"
