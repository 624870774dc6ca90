"""That memory which was freed is the system's again, and how it is taken."""

import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Large blocks, each with something small and lasting after it: in one heap, the last small one keeps all of it.
BLOCKS = """
import resource, torch
from pathlib import Path
from worker.memory import PAGE, RESIDENT, keep_little, reused

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
{last}
print(taken, resident() - before)
"""


def held(first: str, last: str = "") -> tuple[int, int]:
    """Bytes that eight blocks of 16 MiB took in a process of their own, and that were left once they were freed."""
    program = BLOCKS.format(first=first, last=last)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    taken, left = map(int, done.stdout.split())
    return taken, left


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_large_blocks_are_given_back_as_they_are_freed() -> None:
    taken, left = held("keep_little()")
    assert taken > 120 * MIB
    assert left < 24 * MIB, "the small ones alone are 8"
    assert held("")[1] > 64 * MIB, "by itself it would keep them, and this test would show nothing"


AGAIN = """
import resource, torch
from contextlib import nullcontext
from worker.memory import keep_little, reused

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(4 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_little()
with {around}():
    for _ in range(32):
        touched()
    print(sum(touched() for _ in range(4)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_blocks_of_a_pass_are_taken_again_as_they_are() -> None:
    """Four times 16 MiB: the system clears not a page of them, where else it clears all.

    The first few may come to lie behind one another: what is small and stays can leave a hole that lacks some bytes.
    """

    def faults(around: str) -> int:
        """The least of three: a machine in need of memory takes pages back."""
        command = [sys.executable, "-c", AGAIN.format(around=around)]
        return min(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))

    assert faults("reused") < 16 < 100 < faults("nullcontext")


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_blocks_of_a_pass_are_given_back_after_it() -> None:
    """Though something small was left behind them."""
    taken, left = held("\ncontext = reused(); context.__enter__()", "context.__exit__(None, None, None)")
    assert taken > 100 * MIB, "one of them lies where the 24 were"
    assert left < 24 * MIB, "the small ones alone are 8"


LARGE_PAGES = """
import resource
import worker
import torch

torch.ones(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="the system has no large pages for who asks for them"
)
def test_large_tensors_are_touched_in_large_pages() -> None:
    """256 MiB in pages of 4 KiB are 65536 faults."""
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 65536 / 4
