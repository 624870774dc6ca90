"""The noise estimate, on a real clip."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.solver.closed_form import closed_form
from worker.solver.noise import COMPRESSION, estimate_noise, find_noise, noise_on_black
from worker.solver.operators import Chain
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage
from worker.video import read_clip


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return read_clip(SAMPLE, 5).frames.float()


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_the_noise_of_a_blurred_clip_is_found(clip: Tensor, levels: int) -> None:
    y = noisy(GaussianBlur(3.0).A(clip), levels / 255)
    assert estimate_noise(y) * 255 == pytest.approx(levels, rel=0.05)


@pytest.mark.parametrize("levels", [5, 10])
def test_the_noise_of_a_sharp_clip_is_found_once_it_outweighs_texture(clip: Tensor, levels: int) -> None:
    assert estimate_noise(noisy(clip, levels / 255)) * 255 == pytest.approx(levels, rel=0.15)


def test_texture_is_not_taken_for_noise(clip: Tensor) -> None:
    assert estimate_noise(clip) == COMPRESSION
    assert estimate_noise(Downsample(4).A(clip)) == COMPRESSION


def test_lost_pixels_count_for_nothing(clip: Tensor) -> None:
    known = torch.ones(1, 1, *clip.shape[-2:])
    known[..., 40:100, 60:120] = 0
    y = noisy(clip, 10 / 255)
    assert estimate_noise(y * known, known) == pytest.approx(estimate_noise(y), rel=0.1)


def test_a_mask_without_neighbours_gives_the_floor(clip: Tensor) -> None:
    known = (torch.rand(1, 1, *clip.shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.5).float()
    assert estimate_noise(noisy(clip, 10 / 255) * known, known) == COMPRESSION


@pytest.mark.parametrize("crf", [4, 10, 20])
def test_lost_pixels_sent_black_show_what_compression_left(clip: Tensor, crf: int, tmp_path: Path) -> None:
    known = (torch.rand(1, 1, *clip.shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.5).float()
    source = read_clip(SAMPLE, 5)
    write_clip(tmp_path / "y.mp4", clip * known, source, pts=source.pts, crf=crf, full_chroma=True)
    y = read_clip(tmp_path / "y.mp4").frames.float()
    real = float((y - clip)[known.bool().expand_as(y)].std())
    assert noise_on_black(y, known) == pytest.approx(real, rel=0.3)


def test_lost_pixels_that_are_not_black_show_nothing(clip: Tensor) -> None:
    known = torch.ones(1, 1, *clip.shape[-2:])
    assert noise_on_black(clip, known) == 0
    known[..., 40:100, 60:120] = 0
    assert noise_on_black(clip, known) == 0


@pytest.mark.parametrize("levels", [0.5, 2, 5])
def test_noise_is_read_where_a_blur_left_nothing_else(clip: Tensor, levels: float) -> None:
    """To a twentieth, even below a level, which no texture allows; without a blur nothing is so dark."""
    y = noisy(GaussianBlur(3.0).A(clip), levels / 255)
    found = find_noise(y, None, closed_form(Chain([GaussianBlur(3.0)]), y))
    assert found.measured
    assert found.sigma * 255 == pytest.approx(levels, rel=0.05)
    assert not find_noise(y, None, closed_form(Chain([GaussianBlur(0.5)]), y)).measured
    assert not find_noise(y, None, None).measured


def test_an_average_over_time_does_not_hide_the_noise(clip: Tensor) -> None:
    operator = Chain([TemporalAverage(3), GaussianBlur(3.0)])
    y = noisy(operator.A(clip), 2 / 255)
    assert find_noise(y, None, closed_form(operator, y)).sigma * 255 == pytest.approx(2, rel=0.05)


def test_compression_shows_as_noise(clip: Tensor, tmp_path: Path) -> None:
    """The more a file is compressed the more of it."""
    blurred, found = GaussianBlur(3.0).A(clip), []
    for crf in (0, 10, 20):
        write_clip(tmp_path / "clip.mp4", blurred, read_clip(SAMPLE, 5), pts=[0, 512, 1024, 1536, 2048], crf=crf)
        y = read_clip(tmp_path / "clip.mp4").frames.float()
        found.append(find_noise(y, None, closed_form(Chain([GaussianBlur(3.0)]), y)).sigma * 255)
    assert 0.29 < found[0] < 1 < found[1] < found[2] < 4


def test_noise_of_lossy_files_is_seen_to_be_coarse(clip: Tensor, tmp_path: Path) -> None:
    """It rises towards coarse detail, by less than it really does."""
    blurred = GaussianBlur(3.0).A(clip)
    write_clip(tmp_path / "clip.mp4", blurred, read_clip(SAMPLE, 5), pts=[0, 512, 1024, 1536, 2048], crf=10)
    y = read_clip(tmp_path / "clip.mp4").frames.float()
    gram = closed_form(Chain([GaussianBlur(3.0)]), y)
    assert gram is not None
    rise = find_noise(y, None, gram).rise
    noise = gram.rotate((y - blurred).mean(1, keepdim=True))
    real = [
        float(torch.cat([noise[..., rows, columns].flatten() for rows, columns in where]).square().mean().sqrt())
        for where in gram.parts()
    ]
    assert list(rise) == sorted(rise, reverse=True)
    assert 1.2 < rise[0] / rise[4] < real[0] / real[4]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_noise_is_seen_to_last(clip: Tensor, memory: float) -> None:
    blurred = GaussianBlur(3.0).A(clip)
    noise = torch.randn(25, *clip.shape[1:], generator=torch.Generator().manual_seed(0))
    for n in range(1, 25):
        noise[n] = memory * noise[n - 1] + (1 - memory**2) ** 0.5 * noise[n]
    y = blurred[:1] + noise / 255
    found = find_noise(y, None, closed_form(Chain([GaussianBlur(3.0)]), y))
    assert found.memory == pytest.approx(memory, abs=0.05)
    assert found.rise == pytest.approx([1] * 6, abs=0.15)  # it is white in each frame
    assert find_noise(y[:1], None, closed_form(Chain([GaussianBlur(3.0)]), y[:1])).memory == 0
