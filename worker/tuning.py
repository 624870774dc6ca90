"""The settings a task does best with, for whatever the client leaves open."""

from dataclasses import dataclass, replace

from app.degradations import Degradation, Task, task_of


@dataclass(frozen=True)
class Tuning:
    """tau, eta, lowpass as in SolverSettings; floor, slope and chroma as in worker.solver.data_step.Trust.

    The first three default to the paper's values. straight: whether latents are inverted in a single step.
    """

    tau: float = 0.30
    eta: float = 0.2
    lowpass: float = 1.41
    floor: float = 0.06
    slope: float = 0.06
    chroma: float = 1
    straight: bool = False


PAPER = Tuning()

# For the bundled checkpoint, found by bench/tune.py and the heat map of bench/quality.py on two clips in motion
# (docs/quality.md). What a blur took from single frames wants as much noise as in the paper; where known detail is
# near, so small a prior does best on little. By the labels of `task_of`.
BUNDLED: dict[str, Tuning] = {
    Task.deblur: Tuning(tau=0.30, eta=1, lowpass=0.7, floor=0.13, slope=0.2, chroma=4),
    Task.deblur_plus: Tuning(tau=0.09, eta=0.3, lowpass=0.7, floor=0.16, slope=0.26, chroma=8),
    Task.inpaint: Tuning(tau=0.05, eta=1, lowpass=0.7, floor=0.06, slope=0.3, chroma=16),
    Task.inpaint_plus: Tuning(tau=0.05, eta=1, lowpass=0.7, floor=0.06, slope=0.3, chroma=16),
    Task.super_resolution_x4: Tuning(tau=0.15, eta=0.3, lowpass=0.7, floor=0.06, slope=0.1, chroma=4),
    Task.super_resolution_x4_plus: Tuning(tau=0.15, eta=0.3, lowpass=0.7, floor=0.06, slope=0.1, chroma=4),
    Task.temporal_deblur: Tuning(tau=0.05, eta=0.3, lowpass=0.7, floor=0.03, slope=0.1, chroma=16),
}
BUNDLED_ELSE = Tuning(tau=0.09, eta=0.3, lowpass=0.7, floor=0.06, slope=0.3, chroma=16)


def tuning_of(degradations: list[Degradation], bundled: bool) -> Tuning:
    """The tuning of the named task that these degradations resemble."""
    if not bundled:
        return PAPER
    return replace(BUNDLED.get(task_of(degradations), BUNDLED_ELSE), straight=True)  # docs/decisions.md
