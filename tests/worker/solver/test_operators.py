"""Operators and the data step, in float64 and against dense algebra."""

import pytest
import torch
from torch import Tensor

from worker.frame_report import FrameReport
from worker.solver.closed_form import closed_form
from worker.solver.data_step import MOST_ITERATIONS, Proximal, Trust, conjugate_gradients, data_step
from worker.solver.kernels import disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.spatial import Convolution, Downsample, Filter, GaussianBlur
from worker.solver.temporal import Boundary, TemporalAverage, TemporalDownsample

FRAMES, HEIGHT, WIDTH = 6, 8, 12


def mask(frames: int, height: int = HEIGHT, width: int = WIDTH) -> Mask:
    generator = torch.Generator().manual_seed(3)
    return Mask((torch.rand(frames, 1, height, width, generator=generator) > 0.5).double())


def uneven_kernel() -> Tensor:
    """Even sizes, no symmetry."""
    kernel = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return kernel / kernel.sum()


FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic")
BOUNDARIES: tuple[Boundary, ...] = ("replicate", "circular", "valid")
SINGLE: list[Operator] = [
    Downsample(2),
    Downsample(4),
    GaussianBlur(0.7),
    GaussianBlur(3.0),
    *(TemporalAverage(window, boundary) for window in (2, 3, 4, 5) for boundary in BOUNDARIES),
    *(Downsample(factor, filter) for factor in (2, 4) for filter in FILTERS),
    Convolution(disc_kernel(2.5)),
    TemporalDownsample(2),
    TemporalDownsample(6),
    mask(1),
    mask(FRAMES),
]
SKEWED: list[Operator] = [
    Convolution(gaussian_kernel(2.0, 0.7, 30)),
    Convolution(motion_kernel(5.0, -20)),
    Convolution(motion_kernel(31.0, 88)),  # longer than the frame is high: mirrored more than once
    Convolution(uneven_kernel()),
]
CLOSED = [
    *(Chain([operator]) for operator in SINGLE),
    Chain([GaussianBlur(1.0), Downsample(2)]),
    Chain([Downsample(2), GaussianBlur(1.0)]),
    Chain([TemporalAverage(3), GaussianBlur(1.5)]),
    Chain([GaussianBlur(1.5), TemporalAverage(4, "circular")]),
    Chain([TemporalAverage(3, "valid"), Downsample(4)]),
    Chain([TemporalAverage(2), TemporalAverage(3, "valid"), GaussianBlur(0.8), Downsample(2)]),
    Chain([TemporalAverage(3), mask(1)]),
    Chain([TemporalDownsample(3), Convolution(disc_kernel(1.5)), Downsample(2)]),
    Chain([TemporalAverage(2), TemporalDownsample(2), Downsample(4, "bicubic")]),
    Chain([GaussianBlur(1.0), Downsample(2, "bilinear"), Downsample(2)]),
    Chain([Convolution(motion_kernel(3.0)), Convolution(gaussian_kernel(0.5, 1.5))]),
]
ITERATED = [
    *(Chain([operator]) for operator in SKEWED),
    Chain([TemporalAverage(3), Convolution(motion_kernel(4.0, 45)), Downsample(2)]),
    Chain([Convolution(disc_kernel(1.5)), Downsample(2, "bicubic")]),
    Chain([TemporalAverage(3), mask(FRAMES)]),
    Chain([GaussianBlur(1.0), mask(1)]),
    Chain([mask(1), GaussianBlur(1.0)]),
    Chain([TemporalAverage(3, "valid"), Downsample(2), mask(4, HEIGHT // 2, WIDTH // 2)]),
]


def name(operator: Operator) -> str:
    parts = operator.operators if isinstance(operator, Chain) else [operator]
    return "+".join(f"mask{len(p.known)}" if isinstance(p, Mask) else _short(p) for p in parts)


def _short(operator: Operator) -> str:
    return f"convolution{tuple(operator.kernel.shape)}" if isinstance(operator, Convolution) else repr(operator)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def dense(operator: Operator) -> Tensor:
    """The operator as a matrix, a column for each pixel of a one-channel clip."""
    size = FRAMES * HEIGHT * WIDTH
    columns = [operator.A(unit.view(FRAMES, 1, HEIGHT, WIDTH)).flatten() for unit in torch.eye(size).double()]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("operator", [*SINGLE, *SKEWED, *CLOSED, *ITERATED], ids=name)
def test_adjoint_is_the_transpose(operator: Operator) -> None:
    """<A x, y> = <x, A_adjoint y> for all x, y."""
    x = random(FRAMES, 3, HEIGHT, WIDTH)
    y = random(*operator.A(x).shape)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.A_adjoint(y)).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", [*CLOSED, *ITERATED], ids=name)
@pytest.mark.parametrize("rho", [1e-3, 0.5])
def test_data_step_solves_the_proximal_problem(operator: Chain, rho: float) -> None:
    """The result is that of the dense normal equations (A^T A + rho I) x = A^T y + rho x0."""
    x0 = random(FRAMES, 1, HEIGHT, WIDTH)
    y = random(*operator.A(x0).shape)
    matrix = dense(operator)
    normal = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=torch.float64)
    right = matrix.T @ y.flatten() + rho * x0.flatten()

    gram = closed_form(operator, y)
    x = data_step(operator, gram, x0, y, rho).flatten()

    assert (gram is None) == (operator in ITERATED)
    if gram is None:  # iterated until the residual is 1e-5 of the first
        assert torch.linalg.norm(normal @ x - right) <= 1e-5 * torch.linalg.norm(normal @ x0.flatten() - right)
    else:
        torch.testing.assert_close(x, torch.linalg.solve(normal, right), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("operator", "tolerance"),
    [
        (Chain([Downsample(4)]), 1e-12),
        (Chain([Downsample(4, "bicubic")]), 1e-12),
        (Chain([TemporalAverage(3), mask(1)]), 1e-12),
        (Chain([TemporalAverage(3), mask(FRAMES)]), 1e-4),
    ],
    ids=["pool", "bicubic", "mask", "iterated"],
)
def test_colour_may_weigh_otherwise_than_brightness(operator: Chain, tolerance: float) -> None:
    """Each of the three components is what it would be alone, under its own rho."""
    x0 = random(FRAMES, 3, HEIGHT, WIDTH)
    y = random(*operator.A(x0).shape)
    schedule = Schedule.leading(scaled_linear(), 25, 0.3)
    noise, t = 0.02, 121
    rho = (noise / (0.1 + 0.06 * schedule.noise(t) / schedule.signal(t))) ** 2
    x = Proximal(operator, closed_form(operator, y), y, schedule, Trust(noise, floor=0.1, chroma=16))(x0.clone(), t)
    for component, weight in (([1.0, 1, 1], 1), ([1.0, 0, -1], 16), ([-1.0, 2, -1], 16)):
        row = torch.tensor(component, dtype=torch.float64).view(3, 1, 1)
        one, x0_one, y_one = ((z * row).sum(1, keepdim=True) for z in (x, x0, y))
        alone = data_step(operator, closed_form(operator, y_one), x0_one, y_one, weight * rho)
        torch.testing.assert_close(one, alone, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 6, 9), (9, 1, 5)])
@pytest.mark.parametrize(
    "operator",
    [
        Chain([GaussianBlur(2.0)]),
        Chain([TemporalAverage(7), GaussianBlur(1.0)]),
        Chain([TemporalAverage(4, "circular")]),
    ],
    ids=name,
)
def test_one_frame_odd_sizes_and_long_windows(operator: Chain, shape: tuple[int, int, int]) -> None:
    t, h, w = shape
    x0 = random(t, 3, h, w)
    y = random(*operator.A(x0).shape)
    torch.testing.assert_close((operator.A(x0) * y).sum(), (x0 * operator.A_adjoint(y)).sum(), rtol=1e-12, atol=1e-12)
    exact = data_step(operator, closed_form(operator, y), x0, y, 0.1)
    iterated = x0 + conjugate_gradients(operator, operator.A_adjoint(y - operator.A(x0)), 0.1, tolerance=1e-10).x
    torch.testing.assert_close(iterated, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("factor", [3, 41])
def test_any_factor(factor: int) -> None:
    y = random(1, 3, 4, 5)
    operator = Downsample(factor)
    torch.testing.assert_close(operator.A(operator.A_adjoint(y)), y / factor**2)
    with pytest.raises(ValueError, match="do not divide"):
        operator.A(random(1, 3, 4 * factor + 1, 5 * factor))


def test_frames_around_a_valid_average_lie_as_its_window_does() -> None:
    """Measured frame n is of the true frames n ... n + w - 1, whose middle, half a frame back, is n + w // 2."""
    for window in (2, 3, 4, 7):
        before, after = TemporalAverage(window, "valid").grows()
        assert (before, before + after) == (window // 2, window - 1)


def test_conjugate_gradients_solve_what_the_closed_form_solves() -> None:
    operator = Chain([TemporalAverage(3), GaussianBlur(1.0)])
    x0, y = random(FRAMES, 3, HEIGHT, WIDTH), random(FRAMES, 3, HEIGHT, WIDTH)
    exact = data_step(operator, closed_form(operator, y), x0, y, 0.01)
    iterated = x0 + conjugate_gradients(operator, operator.A_adjoint(y - operator.A(x0)), 0.01, tolerance=1e-10).x
    torch.testing.assert_close(iterated, exact, rtol=1e-7, atol=1e-7)


def test_conjugate_gradients_say_how_far_they_came() -> None:
    operator, b = Chain([GaussianBlur(2.0)]), random(2, 3, HEIGHT, WIDTH)
    done, cut = conjugate_gradients(operator, b, 0.1), conjugate_gradients(operator, b, 0.1, max_iterations=3)
    assert (cut.iterations, done.iterations > 3) == (3, True)
    for found in (done, cut):
        left = b - operator.A_adjoint(operator.A(found.x)) - 0.1 * found.x
        assert float(left.norm() / b.norm()) == pytest.approx(found.residual, rel=1e-6)
    assert done.residual <= 1e-5 < cut.residual
    assert conjugate_gradients(operator, torch.zeros_like(b), 0.1).iterations == 0


def test_a_data_step_that_did_not_get_there_is_warned_of() -> None:
    """In float32, with a millionth of a level of noise."""
    operator, schedule = Chain([Convolution(motion_kernel(9, 30))]), Schedule(scaled_linear(), (1,))
    y = operator.A(random(1, 3, 40, 40).float())
    told = []
    for noise in (1e-2, 1e-8):
        step, report = Proximal(operator, None, y, schedule, Trust(noise)), FrameReport()
        step(torch.zeros_like(y), 1)
        report.fitted(step.unsolved)
        told.append((step.iterations[0] < MOST_ITERATIONS, [line[:30] for line in report.warnings(0)]))
    assert told == [(True, []), (False, ["the data step ended after 500 "])]


@pytest.mark.parametrize("operator", [*CLOSED, *ITERATED], ids=name)
def test_lift_has_the_shape_and_the_brightness_of_the_clip(operator: Chain) -> None:
    x = torch.full((FRAMES, 3, HEIGHT, WIDTH), 0.3, dtype=torch.float64)
    y = operator.A(x)
    t, c, h, w = y.shape
    assert operator.clip_shape((t, c, h, w)) == x.shape
    lifted = operator.lift(y)
    assert lifted.shape == x.shape
    if not any(isinstance(o, Mask) for o in operator.operators[:-1]):
        torch.testing.assert_close(lifted, x, rtol=1e-6, atol=1e-6)


def test_blur_wider_than_the_frame_keeps_the_brightness() -> None:
    x = random(2, 3, 5, 7)
    blurred = GaussianBlur(6.0).A(x)
    torch.testing.assert_close(blurred.mean((-2, -1)), x.mean((-2, -1)), rtol=1e-12, atol=1e-12)


def test_a_window_longer_than_the_clip_is_refused_without_padding() -> None:
    with pytest.raises(ValueError, match="window of 7"):
        TemporalAverage(7, "valid").A(random(5, 3, 4, 4))


def test_an_even_window_leans_half_a_frame_back() -> None:
    x = torch.arange(4.0).view(4, 1, 1, 1)
    assert TemporalAverage(2).A(x).flatten().tolist() == [0.0, 0.5, 1.5, 2.5]
    assert TemporalAverage(2, "circular").A(x).flatten().tolist() == [1.5, 0.5, 1.5, 2.5]
    assert TemporalAverage(2, "valid").A(x).flatten().tolist() == [0.5, 1.5, 2.5]
