"""Blind estimates, on photographs and the sample clip, after rounding to 8 bits."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from worker.demo import SAMPLE
from worker.solver import blind
from worker.solver.blind import NotIdentified, drawn, identify
from worker.solver.blind_kernel import similarity
from worker.solver.blind_space import Shape
from worker.solver.blind_time import WINDOWS, non_negative
from worker.solver.kernels import convolved, disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.operators import Operator
from worker.solver.spatial import Convolution, GaussianBlur
from worker.solver.temporal import TemporalAverage
from worker.video import read_clip


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """(25, 1, 160, 256)."""
    return read_clip(SAMPLE).frames.float().mean(1, keepdim=True)


def moving(speed: float, frames: int = 25) -> Tensor:
    """(T, 1, 128, 128): texture with the spectrum of photographs, half of which moves against the other half."""
    return placed([speed * n for n in range(frames)])


def placed(places: Sequence[float]) -> Tensor:
    """The same, by so many pixels at each frame."""
    generator = torch.Generator().manual_seed(0)
    fy, fx = torch.fft.fftfreq(128)[:, None], torch.fft.rfftfreq(128)[None]
    f = (fy.square() + fx.square()).sqrt().clamp_min(1 / 128)
    white = torch.fft.rfft2(torch.randn(2, 128, 128, generator=generator))

    def frame(place: float) -> Tensor:
        way = torch.exp(-2j * torch.pi * place * torch.stack([fx + 0 * fy, fy + 0.4 * fx]))
        texture: Tensor = torch.fft.irfft2((white * way).sum(0) / f**1.25)
        return texture

    x = torch.stack([frame(place) for place in places])[:, None]
    return 0.5 + 0.12 * x / x.std()


def seen(x: Tensor, *operators: Operator) -> Tensor:
    """(T, H, W): what 8 bits hold of a clip after these."""
    for operator in operators:
        x = operator.A(x)
    return ((x.clamp(0, 1) * 255).round() / 255)[:, 0]


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 4.0])
def test_sigma_is_found(clip: Tensor, sigma: float) -> None:
    found = identify(seen(clip, GaussianBlur(sigma)))
    assert found.blur is not None and found.blur.kind == "gaussian"
    assert found.blur.size == pytest.approx(sigma, rel=0.15)
    assert found.window == 1
    assert 0.75 <= found.confidence <= 1


def test_a_movement_during_exposure_is_told_from_a_gaussian(clip: Tensor) -> None:
    found = identify(seen(clip, Convolution(motion_kernel(9, 30)))).blur
    assert found is not None and found.kind == "motion"
    assert found.size == pytest.approx(9, abs=0.5)
    assert found.angle == pytest.approx(30, abs=3)


def test_a_lens_out_of_focus_is_told_from_a_gaussian(clip: Tensor) -> None:
    found = identify(seen(clip, Convolution(disc_kernel(3)))).blur
    assert found is not None and found.kind == "disc"
    assert found.size == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        (Shape("disc", 3, softness=1), convolved(disc_kernel(3), gaussian_kernel(1, 1))),
        (Shape("motion", 9, 30, softness=1), convolved(motion_kernel(9, 30), gaussian_kernel(1, 1))),
        (Shape("motion", 11, 120, softness=1.5), gaussian_kernel(1.5, 3.5, 30)),
    ],
    ids=["disc", "motion", "lengthened Gaussian"],
)
def test_softness_that_came_besides_is_told_from_what_else_happened(clip: Tensor, shape: Shape, kernel: Tensor) -> None:
    """A Gaussian that is longer one way is a movement with softness of its own, but for a hundredth."""
    assert similarity(drawn(shape), kernel) > 0.98
    found = identify(seen(clip, Convolution(kernel))).blur
    assert found is not None and found.kind == shape.kind
    assert found.softness == pytest.approx(shape.softness, abs=0.5)
    assert similarity(drawn(found), kernel) > 0.97


def test_softness_that_sharp_photographs_have_is_left_alone(clip: Tensor) -> None:
    found = identify(seen(clip, Convolution(disc_kernel(3)), GaussianBlur(0.5))).blur
    assert found is not None and found.kind == "disc" and found.softness == 0


def test_the_blur_of_a_soft_clip_is_all_of_it(clip: Tensor) -> None:
    """Where softness hides the zeros of a lens, both together are a Gaussian, and undone they are worth more."""
    both = convolved(disc_kernel(3), gaussian_kernel(1.9, 1.9))
    assert similarity(both, gaussian_kernel(2.5, 2.5)) > 0.99
    found = identify(seen(clip, GaussianBlur(1.9), Convolution(disc_kernel(3)))).blur
    assert found is not None and similarity(drawn(found), both) > 0.97


@pytest.mark.parametrize("window", [5, 8])
def test_the_window_of_a_mean_is_found(window: int) -> None:
    found = identify(seen(moving(2.3), TemporalAverage(window), GaussianBlur(1.5)))
    assert found.window == window
    assert found.blur is not None and found.blur.size == pytest.approx(1.5, rel=0.25)


def test_a_step_forth_and_back_is_no_mean() -> None:
    """It changes as if over a mean of 13, and in 25 frames does so once only; a few pairs of frames count for less."""
    places = [0.05 * n + 3 * (5 <= n < 18) for n in range(25)]
    found = identify(seen(placed(places), GaussianBlur(1.5)))
    assert found.window == 1


def test_a_window_takes_three_times_its_frames_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = torch.tensor([0.0 if window == 9 else 50.0 for window in WINDOWS])
    monkeypatch.setattr(blind, "window_costs", lambda spectra, noise: costs)
    with pytest.raises(NotIdentified, match="a mean of 9 frames takes 27 frames of a scene to tell"):
        identify(seen(moving(2.3, 26), GaussianBlur(1.5)))
    assert identify(seen(moving(2.3, 27), GaussianBlur(1.5))).window == 9


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_a_still_clip_has_no_window(clip: Tensor, sigma: float) -> None:
    found = identify(seen(clip[:1].expand(9, -1, -1, -1), GaussianBlur(sigma)))
    assert found.window == 1
    assert found.blur is not None and found.blur.size == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (lambda clip: clip[:, 0], "sharp"),
        (lambda clip: torch.full((9, 96, 96), 0.4), "flat"),
        (lambda clip: torch.rand(9, 96, 96, generator=torch.Generator().manual_seed(0)), "."),
        (lambda clip: clip[:, 0, :48, :48], "less than 64"),
    ],
    ids=["sharp", "flat", "noise", "small"],
)
def test_what_does_not_tell_is_refused(clip: Tensor, frames: Callable[[Tensor], Tensor], told: str) -> None:
    with pytest.raises(NotIdentified, match=told):
        identify(frames(clip))


def test_a_blur_beyond_those_tried_is_refused(clip: Tensor) -> None:
    with pytest.raises(NotIdentified):
        identify(seen(clip, GaussianBlur(12.0)))


def test_weights_are_never_below_zero() -> None:
    """Exact where the target is such a sum; where it is not, what is left agrees with no column."""
    matrix = torch.rand(8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = matrix[:, :3] @ torch.tensor([1.0, 2, 3], dtype=torch.float64)
    assert non_negative(matrix, inside).abs().max() < 1e-5
    left = non_negative(matrix, -inside)
    torch.testing.assert_close(left, -inside)
    left = non_negative(matrix, torch.eye(8, dtype=torch.float64)[0])
    assert left.norm() > 0 and (matrix.T @ left).max() < 1e-5
