"""Frames that are kept in files, and shared by parts that overlap."""

import resource
from pathlib import Path

import pytest
import torch

from worker.solver.segments import Part
from worker.storage import Spilled, Storage

PARTS = [Part(range(40 + n, 48 + n), range(38 + n, 50 + n)) for n in (0, 5, 10)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_written_is_read_again(tmp_path: Path, dtype: torch.dtype) -> None:
    clip = torch.randn(7, 3, 4, 6).to(dtype)
    kept = Spilled(tmp_path, clip.shape, dtype)
    kept[0:7] = clip.flip(0)
    kept[2:7] = clip[2:]
    kept[0:2] = clip[:2]
    for part in (slice(0, 7), slice(3, 5), slice(6, 7), slice(4, 4), slice(5, 99)):
        assert torch.equal(kept[part], clip[part])
    kept[1:4] = clip[6:]
    assert torch.equal(kept[0:5], torch.cat([clip[:1], clip[6:], clip[6:], clip[6:], clip[4:5]]))


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    kept = Spilled(tmp_path, (2, 3), torch.float32)
    kept[0:2] = torch.ones(2, 3)
    kept[0:1].zero_()
    assert float(kept[0:1].sum()) == 3


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    kept = Spilled(tmp_path, (2, 3), torch.float32)
    kept[0:2] = torch.ones(2, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told_of(tmp_path: Path) -> None:
    kept = Spilled(tmp_path, (4, 1 << 18), torch.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))  # which a file hits as it does the end of a disk
    try:
        kept[0:2] = torch.ones(2, 1 << 18)
        with pytest.raises(OSError, match="File too large"):
            kept[2:4] = torch.ones(2, 1 << 18)
        assert float(kept[0:2].sum()) == 2 << 18
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_parts_that_overlap_have_their_frames_once(tmp_path: Path) -> None:
    clip = torch.rand(18, 3, 4, 6).half()
    store = Storage(PARTS, tmp_path, gpu=False)
    assert not store.alone
    first = [part.measured.start - 40 for part in PARTS]
    read = [store.measured.kept(part.measured, clip[n : n + 8]) for n, part in zip(first, PARTS, strict=True)]
    for n, frames in zip(first, read, strict=True):
        assert torch.equal(frames(), clip[n : n + 8])
    store.measured.kept(PARTS[1].measured, clip[:8] * 0)
    assert float(read[0]()[5:].abs().sum()) == float(read[2]()[:3].abs().sum()) == 0


def test_what_is_alone_stays_in_memory(tmp_path: Path) -> None:
    store = Storage(PARTS[:1], tmp_path, gpu=False)
    assert store.alone
    assert isinstance(store.room(8, torch.rand(1, 3, 4, 6)), torch.Tensor)
    assert isinstance(Storage(PARTS, tmp_path, gpu=False).room(8, torch.rand(1, 3, 4, 6)), Spilled)
