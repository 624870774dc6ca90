"""Kernels of no known shape, found on the sample clip after rounding to 8 bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.demo import SAMPLE
from worker.measures import psnr
from worker.solver.blind import Identified, NotIdentified, identify
from worker.solver.blind_kernel import SUPPORT, alternate, centred, similarity, split, total_variation
from worker.solver.data_step import data_step
from worker.solver.kernels import disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.operators import Chain
from worker.solver.spatial import Convolution
from worker.video import read_clip


def corner() -> Tensor:
    """(11, 11): down, and then to the right."""
    kernel = torch.zeros(11, 11, dtype=torch.float64)
    kernel[1:10, 2] = 1
    kernel[9, 3:10] = 1
    return kernel / kernel.sum()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """(25, 1, 160, 256)."""
    return read_clip(SAMPLE).frames.float().mean(1, keepdim=True)


def seen(x: Tensor, kernel: Tensor) -> Tensor:
    """(T, H, W)."""
    return ((Convolution(kernel).A(x).clamp(0, 1) * 255).round() / 255)[:, 0]


@pytest.fixture(scope="module")
def around(clip: Tensor) -> Identified:
    """What is made of a way around a corner."""
    return identify(seen(clip, corner()))


def test_a_way_around_a_corner_is_found_the_right_way_round(around: Identified) -> None:
    kernel = around.kernel
    assert kernel is not None and around.blur is None
    assert around.window == 1
    assert around.confidence >= 0.75
    assert similarity(kernel, corner()) > 0.7
    assert similarity(kernel, corner()) > similarity(kernel, corner().flip(0, 1)) + 0.1


def test_a_kernel_is_a_share_of_light_about_its_middle(around: Identified) -> None:
    kernel = around.kernel
    assert kernel is not None and kernel.shape == (SUPPORT, SUPPORT)
    assert float(kernel.min()) >= 0
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(SUPPORT) - SUPPORT // 2
    assert abs(float((kernel.sum(0) * offsets).sum())) <= 0.6
    assert abs(float((kernel.sum(1) * offsets).sum())) <= 0.6


def test_what_is_found_brings_detail_back(clip: Tensor, around: Identified) -> None:
    y = seen(clip, corner())
    assert around.kernel is not None
    blur = around.kernel.double() / around.kernel.double().sum()
    x = data_step(Chain([Convolution(blur)]), None, y[:1, None], y[:1, None], 0.017)
    moved = (x.clamp(0, 1).roll((n, m), (-2, -1)) for n in (-1, 0, 1) for m in (-1, 0, 1))
    assert max(psnr(one, clip[:1]) for one in moved) > psnr(y[:1, None], clip[:1]) + 1


@pytest.mark.parametrize(
    "kernel", [gaussian_kernel(2, 2), disc_kernel(3), motion_kernel(9, 30)], ids=["gaussian", "disc", "motion"]
)
def test_a_shape_stays_a_shape(clip: Tensor, kernel: Tensor) -> None:
    found = identify(seen(clip, kernel))
    assert found.blur is not None and found.kernel is None


def test_an_arc_that_is_not_found_is_refused(clip: Tensor) -> None:
    """Turns end in something else, which is seen."""
    turn = torch.deg2rad(torch.arange(10, 170, 0.1, dtype=torch.float64))
    kernel = torch.zeros(17, 17, dtype=torch.float64)
    place = ((11 - 5 * turn.sin()).round().long(), (8 + 5 * turn.cos()).round().long())
    kernel.index_put_(place, torch.ones(len(turn), dtype=torch.float64), accumulate=True)
    with pytest.raises(NotIdentified):
        identify(seen(clip, kernel / kernel.sum()))


def test_echoes_tell_the_right_way_round(clip: Tensor) -> None:
    _, judged = split(seen(clip, corner()))
    assert total_variation(judged, corner()) < 0.98 * total_variation(judged, corner().flip(0, 1))
    assert total_variation(judged, corner()) < total_variation(judged, corner(), phase=False)


def test_frames_to_judge_by_are_not_learned_from() -> None:
    frames = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    learned, judged = split(frames)
    assert len(learned.spectra) == len(judged.spectra) == 1
    assert not torch.equal(learned.spectra, judged.spectra)


def test_flat_frames_leave_a_point() -> None:
    learned, _ = split(torch.full((5, 64, 64), 0.5))
    kernel = alternate(learned, gaussian_kernel(1, 1))
    torch.testing.assert_close(kernel, F.pad(torch.ones(1, 1), (SUPPORT // 2,) * 4))


def test_a_kernel_off_the_middle_is_put_there() -> None:
    weights = torch.zeros(SUPPORT, SUPPORT)
    weights[2, 3], weights[4, 3], weights[9, 9], weights[5, 5] = 1, 1, -1, 0.01
    kernel = centred(weights)
    middle = SUPPORT // 2
    assert float(kernel[middle - 1, middle]) == float(kernel[middle + 1, middle]) == pytest.approx(0.5)
