"""Which measured frames are no mean of their neighbours, whatever was stated: told from the measurement alone.

A mean over time leaves next to nothing of some changes from frame to frame, so a frame that was not averaged, or
averaged with something else, stands out by what cannot be there. Both readings of each frame are weighed by their
evidence (the marginal likelihood of a Gaussian model; MacKay 1992). In an octave of spatial frequency every DCT
coefficient is a sample of one time series,

    y ~ N(0, a M K M^T + s^2 I),    K_ij = g_i g_j exp(-|i - j| / l)  or  g_i g_j exp(-(i - j)^2 / 2 l^2),

where row n of M is that of the average, or that of the identity if frame n is taken as it is. l (how fast things
move) and the shape of K (in leaps, or steadily), a (within a factor of 2 of the measured energy) and s are the
likeliest ones for each octave; g follows the energy of the clip. What does not move says nothing, as the mean of a
still picture is that picture, and is projected out.
"""

from itertools import pairwise

import torch
from torch import Tensor

from worker.solver.dct import dct_matrix
from worker.solver.evidence import energies, log_likelihood

RUN_PRICE, FRAME_PRICE = 1.5, 0.05  # nats a coefficient; right statements stay under them (docs/decisions.md)
MOST = 2 / 3  # of the frames: where so many are none, no frame is taken for a mean
LARGEST_WINDOW = 32  # frames; the search grows with its fourth power
LEAST_BLOCK = 32  # measured frames that are looked at together
OCTAVES = (1, 2, 4, 8, 16, 32, 64, 128)  # half cycles along the longer side
HEARD, COUNTED = 4.0, 1.0  # times sigma^2: what must move in octaves that bear witness, and in those that count
MEMORIES = (0.25, 1.0, 3.0, 9.0, 27.0)  # l, frames
AMPLITUDES = (0.5, 1.0, 2.0)
NOISES = (1.0, 4.0, 16.0)  # times sigma^2: coarse detail of a lossy file is off by more than its noise says
RUNS = (1, 2, 3, 4, 6, 9, 12)
BATCH = 128

Octave = tuple[int, Tensor]  # how many coefficients, and their covariance over time


def misfits(y: Tensor, mix: Tensor, own: list[int], sigma: float) -> list[int]:
    """The measured frames that are explained better when taken as they are than as a mixture.

    y: (T', C, H, W); what happened to each frame must be linear and the same for all. mix: (T', T), rows of sum 1.
    own: the true frame at the place of each measured one. sigma: standard deviation of the noise of y, on its scale.
    """
    window = int((mix != 0).sum(1).max())
    if not 1 < window <= LARGEST_WINDOW:
        return []
    blocks = max(1, len(y) // max(LEAST_BLOCK, 2 * window))
    edges = [round(n * len(y) / blocks) for n in range(blocks + 1)]
    found: list[int] = []
    for start, stop in pairwise(edges):
        rows = mix[start:stop].double().cpu()
        columns = rows.any(0).nonzero().flatten().tolist()
        at = [columns.index(own[n]) for n in range(start, stop)]
        octaves = octaves_of(y[start:stop])
        heard = [octave for octave in octaves if moving_energy(octave) > HEARD * sigma**2]
        count = sum(octave[0] for octave in octaves if moving_energy(octave) > COUNTED * sigma**2)
        found += [start + n for n in _search(heard, count, rows[:, columns], at, sigma)]
    return found


def octaves_of(y: Tensor) -> list[Octave]:
    """One for each of OCTAVES that frames (T, C, H, W) are large enough for."""
    brightness = y.float().mean(1)
    sizes = brightness.shape[1:]
    down, across = (dct_matrix(n, torch.float32, y.device)[: OCTAVES[-1]] for n in sizes)
    coefficients = (down @ brightness @ across.T).double().cpu()
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in coefficients.shape[1:])
    frequency = max(sizes) * ((rows / sizes[0])[:, None].square() + (columns / sizes[1]).square()).sqrt()
    found = []
    for low, high in pairwise(OCTAVES):
        series = coefficients[:, (frequency >= low) & (frequency < high)]
        if series.shape[1]:
            found.append((series.shape[1], series @ series.T / series.shape[1]))
    return found


def moving_energy(octave: Octave) -> float:
    """Mean square of what a coefficient has beyond its mean over time."""
    return float(_about_mean(octave).mean())


def _about_mean(octave: Octave) -> Tensor:
    """(T,): mean square of what each frame has beyond the mean of all."""
    covariance = octave[1]
    centre = torch.eye(len(covariance)).double() - 1 / len(covariance)
    return (centre @ covariance @ centre).diagonal()


def _search(octaves: list[Octave], coefficients: int, mix: Tensor, own: list[int], sigma: float) -> list[int]:
    """Runs of frames are added or taken back for as long as the evidence grows by more than what they cost."""
    frames = len(mix)
    if frames < 3 or not octaves:
        return []
    evidence = _Evidence(octaves, mix, own, sigma)
    runs = [frozenset(range(i, i + n)) for n in RUNS for i in range(frames - n + 1)]
    runs += [frozenset(run) for i in range(1, frames) for run in (range(i), range(i, frames))] + [
        frozenset(range(frames))
    ]
    dropped, best = frozenset[int](), evidence([frozenset()])[0]
    while True:
        tries = sorted({new for run in runs for new in (dropped | run, dropped - run)} - {dropped}, key=sorted)
        worth = evidence(tries) - coefficients * torch.tensor([_price(new, frames) for new in tries])
        if worth.max() <= best:
            ends = [end for end, at in ((-1, own[0] == 0), (frames, own[-1] == mix.shape[1] - 1)) if at]
            filled = _without_gaps(dropped, frames, ends)
            return sorted(filled if len(filled) < MOST * frames else range(frames))
        dropped, best = tries[int(worth.argmax())], worth.max()


def _price(dropped: frozenset[int], frames: int) -> float:
    """What must be gained for it, nats a coefficient. That no frame was averaged is as simple as that one was not."""
    runs = sum(n - 1 not in dropped for n in dropped)
    return RUN_PRICE * runs + FRAME_PRICE * (len(dropped) if len(dropped) < frames else 1)


class _Evidence:
    """Logarithm of the likelihood of all octaves, up to a constant, for each set of frames taken as they are."""

    def __init__(self, octaves: list[Octave], mix: Tensor, own: list[int], sigma: float) -> None:
        self.mix, self.octaves = mix, octaves
        frames = len(mix)
        self.plain = torch.zeros_like(mix)
        self.plain[range(frames), own] = 1
        start = torch.cat([torch.ones(frames, 1), torch.eye(frames)[:, 1:]], 1).double()
        self.moving = torch.linalg.qr(start).Q[:, 1:].T  # (T' - 1, T'): all that is not the same in every frame
        lags = (torch.arange(mix.shape[1])[:, None] - torch.arange(mix.shape[1])).abs().double()
        strength = _strength(octaves, mix, own)
        shapes = [torch.exp(-power) for memory in MEMORIES for power in (lags / memory, (lags / memory).square() / 2)]
        self.prior = torch.stack(shapes) * strength * strength[:, None]
        self.noises = [noise * sigma**2 for noise in NOISES]

    def __call__(self, tries: list[frozenset[int]]) -> Tensor:
        return torch.cat([self._batch(tries[n : n + BATCH]) for n in range(0, len(tries), BATCH)])

    def _batch(self, tries: list[frozenset[int]]) -> Tensor:
        plain = torch.tensor([[n in dropped for n in range(len(self.mix))] for dropped in tries])[..., None]
        mix = self.moving @ torch.where(plain, self.plain, self.mix)
        energy, modes = energies(mix[:, None] @ self.prior @ mix[:, None].mT)
        likelihoods = []
        for count, covariance in self.octaves:
            seen = self.moving @ covariance @ self.moving.T
            likelihoods.append(count * log_likelihood(seen, energy, modes, self.noises, AMPLITUDES).amax(-1))
        return torch.stack(likelihoods).sum(0)


def _strength(octaves: list[Octave], mix: Tensor, own: list[int]) -> Tensor:
    """g (T,): how strongly each true frame moves, as far as the smoothed energy of the measured ones tells."""
    energies = [_about_mean(octave).clamp_min(1e-12) for octave in octaves]
    energy = torch.stack([e / e.mean() for e in energies]).mean(0)
    window = int((mix != 0).sum(1).max())
    lags = (torch.arange(mix.shape[1])[:, None] - torch.tensor(own)).abs()
    near = (1 - lags / window).clamp_min(0.01).double()
    smooth = near @ energy / near.sum(1) + 0.05
    return (smooth / smooth.mean()).sqrt()


def _without_gaps(dropped: frozenset[int], frames: int, ends: list[int]) -> set[int]:
    """Up to two frames between longer runs of dropped ones, or between one and an end of the clip, are dropped too.

    At its ends, the same frame is averaged with itself, so that little tells the two readings apart. ends: which of -1
    and `frames` are beyond the clip.
    """
    beyond = {end + step for end in ends for step in range(-3, 4) if not 0 <= end + step < frames}
    there = dropped | beyond
    filled = set(dropped)
    for gap in (1, 2):
        for start in range(frames - gap + 1):
            sides = [*range(start - gap - 1, start), *range(start + gap, start + 2 * gap + 1)]
            if there.issuperset(sides) and not dropped.isdisjoint(sides):
                filled |= set(range(start, start + gap))
    return filled
