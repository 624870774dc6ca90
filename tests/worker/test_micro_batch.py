"""How the size of micro-batches is chosen."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker import memory, micro_batch
from worker.memory import free_memory, peak_of
from worker.micro_batch import WHOLE_CLIPS, choose

CPU = torch.device("cpu")
MIB = 1 << 20


class Greedy:
    """A prior that takes so many bytes for each pass."""

    def __init__(self, taken: int) -> None:
        self.taken = taken

    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 4, x.shape[-2] // 8, x.shape[-1] // 8)

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return z, z

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.ones(self.taken // 4)


def test_a_size_that_was_set_is_taken_without_a_look() -> None:
    choice = choose(Greedy(1 << 60), CPU, 64, 64, 25, 7)
    assert (choice.size, choice.reason, choice.frame) == (7, "setting", None)


def test_what_a_frame_takes_is_measured() -> None:
    def work() -> None:
        Greedy(300 * MIB).decode(torch.zeros(1), (8, 8))

    taken = peak_of(work, CPU)
    assert 280 * MIB < taken < 340 * MIB


def test_what_is_free_is_what_the_machine_says() -> None:
    assert 64 * MIB < free_memory(CPU) < 1 << 50


def test_files_that_were_read_leave_a_container_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{64 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{60 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {9 * MIB}\nfile {51 * MIB}\ninactive_file {48 * MIB}\n")
    assert free_memory(CPU) == 52 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 52 * MIB


@pytest.mark.parametrize(
    ("free", "frames", "size", "reason"),
    [(900, 25, 2, "memory"), (100, 25, 1, "memory"), (20000, 25, 4, "enough"), (20000, 3, 3, "frames")],
)
def test_as_many_as_memory_holds(
    free: int, frames: int, size: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame takes 300 MiB; a tenth is left, and what the loop itself needs of so small a clip is next to nothing."""
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: free * MIB)
    choice = choose(Greedy(300 * MIB), CPU, 64, 64, frames, None)
    assert (choice.size, choice.reason, choice.free) == (size, reason, free * MIB)


def test_the_clip_itself_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = WHOLE_CLIPS * 25 * 3 * 512 * 512 * 4
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: round((clip + 700 * MIB) / 0.9))
    assert choose(Greedy(300 * MIB), CPU, 512, 512, 25, None).size == 2


def test_frames_go_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine as three times three, not as four, four and one."""
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1 << 40)
    assert choose(Greedy(MIB), CPU, 64, 64, 9, None).size == 3


def test_a_budget_counts_what_is_taken_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a GPU's allocator; here its answers are given, and the passes compute nothing."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 60_000 * MIB)
    monkeypatch.setattr(micro_batch, "peak_of", lambda work, device: 300 * MIB)
    monkeypatch.setattr(micro_batch, "_passes", lambda *args: [lambda: None])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5000 * MIB)
    assert choose(Greedy(0), gpu, 64, 64, 25, budget=6100 * MIB).size == 3
    assert choose(Greedy(0), gpu, 64, 64, 25, budget=4000 * MIB).size == 1, "it has to be tried with one at least"
    assert choose(Greedy(0), gpu, 64, 64, 25).reason == "enough"
