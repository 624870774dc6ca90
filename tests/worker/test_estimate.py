"""What a file says about what happened to it, in the words a client would have used."""

import math
from pathlib import Path

import pytest
import torch

from app import degradations as stated
from app.degradations import DiscBlur, KernelBlur
from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.estimate import estimate
from worker.scenes import scan
from worker.solver.kernels import disc_kernel, gaussian_kernel
from worker.solver.spatial import Convolution, GaussianBlur
from worker.video import read_clip


def test_a_blur_of_no_known_shape_is_told_as_a_kernel(tmp_path: Path) -> None:
    """A still, so that the window is of no matter."""
    clip, blurred = read_clip(SAMPLE, 1), tmp_path / "blurred.mp4"
    truth = clip.frames.float().expand(4, -1, -1, -1)
    twice = torch.zeros(3, 7, dtype=torch.float64)
    twice[0, 0], twice[2, 6] = 0.6, 0.4
    y = Convolution(twice).A(Convolution(gaussian_kernel(0.7, 0.7)).A(truth))
    write_clip(blurred, y, clip, pts=read_clip(SAMPLE, 4).pts, crf=6)
    found = estimate(blurred, scan(blurred))
    (step,) = found.degradation
    assert isinstance(step, KernelBlur) and step.kernel is not None
    weights = [weight for row in step.kernel for weight in row]
    assert min(weights) >= 0
    assert abs(math.fsum(weights) - 1) < 2e-4
    assert 0.75 <= found.confidence <= 1


def test_a_soft_clip_out_of_focus_is_told_as_two_blurs(tmp_path: Path) -> None:
    clip, blurred = read_clip(SAMPLE, 1), tmp_path / "blurred.mp4"
    truth = clip.frames.float().expand(4, -1, -1, -1)
    y = Convolution(disc_kernel(4)).A(GaussianBlur(1.0).A(truth))
    write_clip(blurred, y, clip, pts=read_clip(SAMPLE, 4).pts, crf=1)
    lens, softness = estimate(blurred, scan(blurred)).degradation
    assert isinstance(lens, DiscBlur) and lens.radius == pytest.approx(4, abs=0.2)
    assert isinstance(softness, stated.GaussianBlur) and softness.sigma == pytest.approx(1, abs=0.5)
