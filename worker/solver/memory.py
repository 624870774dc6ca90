"""How long errors last: how much of what an estimate is off by at one frame it is off by at the next, by octaves.

Where frames were averaged, the measurement leaves next to nothing of quick changes, and fitting an estimate to it
brings up noise and ghosts there. But what is off at one frame is mostly off at its neighbours too, the longer the
coarser the detail and the slower it moves. In an octave of spatial frequency every coefficient of y - A x0 is a sample
of one time series,

    N(0, a M K M^T + s^2 I),    K_ij = c^|i - j|,

of which the memory c is the mean under its likelihood. That noise lasts too is left out here: told with it, memories
come out shorter than serves (docs/decisions.md). x0 is the first guess, which has the noise of y in it, so that
the noise of y - A x0 is no longer white; it is made so.
"""

from dataclasses import replace

import torch
from torch import Tensor

from worker.solver.closed_form import Gram
from worker.solver.evidence import autocorrelation, energies, log_likelihood
from worker.solver.operators import Chain
from worker.solver.temporal import Temporal

MEMORIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
AMPLITUDES = (0.25, 0.5, 1.0, 2.0)  # a, times the energy that was measured
NOISES = (1.0, 4.0, 16.0)  # s^2, times that of the noise: coarse detail of a lossy file is off by more than it says
ALIKE = 10  # coefficients that tell as much as one would if all were independent
LEAST = 0.2  # of the strongest: what the first guess explains is no witness
UNTOLD = 0.3  # where the spectrum goes by pixels and not by frequency, as under a mask
DARK = 1e-5  # eigenvalue of B B^T, below which coefficients tell of nothing but noise


def likely_memories(gram: Gram, operator: Chain, residual: Tensor, noise: float) -> list[float]:
    """The memory of the error of lift(y), for each of the gram's `parts`.

    residual: y - A lift(y), (T', 3, H', W'). noise: standard deviation of that of y, on its scale. gram: that of
    `operator`, with a `mix`.
    """
    assert gram.mix is not None
    if gram.rotation is None:
        return [UNTOLD]
    frames = len(residual)
    series = replace(gram, octaves=()).rotate(residual.mean(1, keepdim=True))[:, 0]
    again = gram.mix @ _lift_in_time(operator, frames)
    found = []
    for where in gram.parts():
        values, parts = [], []
        for rows, columns in where:
            told = gram.spectrum[0, 0, rows, columns] > DARK
            values.append(gram.spectrum[0, 0, rows, columns][told])
            parts.append(series[:, rows, columns][:, told])
        part, value = torch.cat(parts, 1), torch.cat(values)
        amplitude = float(value.sum() / max(1, len(value))) ** 0.5
        white = _whitened(torch.eye(frames).double() - amplitude * again)
        found.append(memory_of(white.to(part) @ part, white @ gram.mix, noise / 3**0.5))
    return found


def _lift_in_time(operator: Chain, frames: int) -> Tensor:
    """(T, T'): what the first guess of each frame is made of."""
    first = torch.eye(frames, dtype=torch.float64)[:, :, None, None]
    for one in reversed(operator.operators):
        if isinstance(one, Temporal):
            first = one.lift(first)
    return first[:, :, 0, 0]


def _whitened(mixed: Tensor) -> Tensor:
    """What makes noise white again after `mixed` (T', T'), for all that it has not nearly wiped out."""
    left, strength, _ = torch.linalg.svd(mixed)
    kept = int((strength > LEAST * strength.max()).sum())  # they come strongest first
    whitened: Tensor = left[:, :kept].T / strength[:kept, None]
    return whitened


def memory_of(series: Tensor, mix: Tensor, noise: float) -> float:
    """The mean memory, under its likelihood, of what N series in noise were mixed from.

    series: (T', N). mix: (T', T). noise: standard deviation of what is white in them.
    """
    memories = torch.tensor(MEMORIES, dtype=torch.float64)
    energy, modes = energies(mix @ autocorrelation(memories[:, None, None], mix.shape[1]) @ mix.T)
    count = series.shape[1]
    seen = (series @ series.T).double().cpu() / max(1, count)
    noises = [factor * noise**2 for factor in NOISES]
    likelihood = log_likelihood(seen, energy, modes, noises, AMPLITUDES) * (count / ALIKE)
    weight = (likelihood - likelihood.max()).exp()
    return float((weight * memories).sum() / weight.sum())
