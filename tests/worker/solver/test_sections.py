"""A clip in sections that go through the sampler together, with a prior that is anything but an oracle."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.solver.test_loop import Wavy
from worker.solver.batches import MicroBatches
from worker.solver.restore import Sampling, Section, restore, restored
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.segments import crossfade
from worker.solver.stages import Stage
from worker.storage import Spilled

SECTIONS = [range(0, 8), range(5, 13), range(10, 18)]
FRAMES, SIZE = 18, 16


class Counting(Wavy):
    """Counts the frames that go through each network."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = {"encode": 0, "decode": 0, "noise": 0}
        self.turns: list[str] = []  # which network was needed, each time that it was not the one before

    def _turn(self, network: str) -> None:
        if self.turns[-1:] != [network]:
            self.turns.append(network)

    def encode(self, x: Tensor) -> Tensor:
        self.frames["encode"] += len(x)
        self._turn("vae")
        return super().encode(x)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        self.frames["decode"] += len(z)
        self._turn("vae")
        return super().decode(z, size)

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        self.frames["noise"] += len(z)
        self._turn("unet")
        return super().predict_noise(z, t)


@pytest.fixture
def clip() -> Tensor:
    return torch.rand(FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def sampling(**changed: object) -> Sampling:
    return Sampling(Schedule.leading(scaled_linear(), 25, 0.30), **changed)  # type: ignore[arg-type]


def alone(x: Tensor, t: int) -> Tensor:
    """A data step that mixes no frames."""
    return 0.8 * x + t / 5000


def sections(clip: Tensor, first: int = 0) -> list[Section]:
    def one(frames: range) -> Section:
        return Section(
            range(frames.start + first, frames.stop + first), lambda: clip[frames.start : frames.stop], alone
        )

    return [one(frames) for frames in SECTIONS]


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("final", ["data", "prior"])
def test_where_no_frames_are_mixed_sections_are_the_whole(clip: Tensor, final: str, first: int) -> None:
    """Whatever number the clip's first frame has."""
    how = sampling(final=final)
    whole = restore(Wavy(), clip, alone, how, torch.Generator().manual_seed(7))
    parts = list(restored(Wavy(), sections(clip, first), how, torch.Generator().manual_seed(7)))
    for frames, part in zip(SECTIONS, parts, strict=True):
        torch.testing.assert_close(part, whole[frames.start : frames.stop], rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["every_frame", "random"])
def test_every_frame_is_sampled_once(clip: Tensor, init: str) -> None:
    how, prior, heard = sampling(init=init), Counting(), dict.fromkeys(("denoise", "vae_decode", "data_step"), 0)

    def watch(stage: Stage, frames: int) -> None:
        if stage in heard:
            heard[stage] += frames

    for _ in restored(prior, sections(clip), how, torch.Generator(), watch, MicroBatches(4)):
        pass
    steps = len(how.schedule.timesteps)
    assert prior.frames == {
        "encode": FRAMES * steps,  # the first of all, and each but the last
        "decode": FRAMES * steps,
        "noise": FRAMES * (steps + (steps - 1 if init == "every_frame" else 0)),
    }
    assert heard == dict.fromkeys(heard, FRAMES * steps)


def test_networks_take_turns_once_a_step(clip: Tensor) -> None:
    """However many sections there are: with `VXL_MEMORY=low` each turn fetches gigabytes."""
    how, prior = sampling(), Counting()
    for _ in restored(prior, sections(clip), how, torch.Generator(), batches=MicroBatches(4)):
        pass
    assert prior.turns == ["vae"] + ["unet", "vae"] * len(how.schedule.timesteps)  # the inversion goes before the first


def test_frames_may_lie_in_files(clip: Tensor, tmp_path: Path) -> None:
    def room(frames: int, like: Tensor) -> Spilled:
        return Spilled(tmp_path, (frames, *like.shape[1:]), like.dtype)

    def made(**where: Any) -> list[Tensor]:
        return list(restored(Wavy(), sections(clip), how, torch.Generator().manual_seed(7), **where))

    for init in ("every_frame", "first_frame", "random"):
        how = sampling(init=init)
        assert all(torch.equal(a, b) for a, b in zip(made(), made(room=room), strict=True))


def test_of_frames_that_two_sections_share_the_result_goes_over_from_one_to_the_other(clip: Tensor) -> None:
    levels = [0.1, 0.5, 0.9]
    constant = [
        Section(one.frames, one.lifted, lambda x, t, level=level: torch.full_like(x, level))  # type: ignore[misc]
        for one, level in zip(sections(clip), levels, strict=True)
    ]
    how = sampling(lowpass=0.0)
    parts = list(restored(Wavy(), constant, how, torch.Generator()))
    for (before, after), part in zip(pairwise(levels), parts[1:], strict=True):
        expected = crossfade(torch.full((3, 1, 1, 1), before), torch.full((3, 1, 1, 1), after)).flatten()
        torch.testing.assert_close(part[:3, 0, 0, 0].float(), expected)
        assert float((part[3:] - after).abs().max()) == 0


def test_first_frames_are_those_of_each_section(clip: Tensor) -> None:
    """Where all frames begin as the first one does."""
    how = sampling(init="first_frame")
    prior = Counting()
    parts = list(restored(prior, sections(clip), how, torch.Generator().manual_seed(7)))
    assert prior.frames["encode"] == 3 + FRAMES * (len(how.schedule.timesteps) - 1)
    first = restore(Wavy(), clip[:5], alone, how, torch.Generator().manual_seed(7))
    torch.testing.assert_close(parts[0][:5], first, rtol=0, atol=1e-12)


def test_sections_are_read_when_they_are_needed(clip: Tensor) -> None:
    """The pixels of one only are in memory."""
    read: list[int] = []

    def section(n: int, frames: range) -> Section:
        def lifted() -> Tensor:
            read.append(n)
            return clip[frames.start : frames.stop]

        return Section(frames, lifted, alone)

    made = restored(Wavy(), [section(n, frames) for n, frames in enumerate(SECTIONS)], sampling(), torch.Generator())
    assert len(next(made)) == 8
    assert read == [0, 1, 2]
