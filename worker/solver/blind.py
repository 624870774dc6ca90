"""What happened to a clip, from the clip itself: the blur of its frames, and how many frames each is the mean of.

blind_space.py scores blurs by how white the residual of each is, blind_time.py windows. Here both are turned into
probabilities, and what is not probable enough is refused: a wrong blur undone is worse than none undone. Where no shape
explains the clip well, or blind_parts.py sees that there is more to the blur, blind_kernel.py finds a kernel, which has
to explain it clearly better.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.solver.blind_kernel import alternate, similarity, split, total_variation, transfer_of
from worker.solver.blind_parts import in_common
from worker.solver.blind_space import Fit, Shape, Spectrum, binned, fit, free_transfer, transfers, windowed_spectra
from worker.solver.blind_time import BANDS, THRICE, WINDOWS, window_costs
from worker.solver.kernels import convolved, disc_kernel, gaussian_kernel, motion_kernel

LEAST_CONFIDENCE = 0.75
WORST_MISFIT = 5.0
LEAST_SIDE = 64
FLAT = 2e-5  # variance of frames in [0, 1] under which there is nothing to see
LEAST = {"gaussian": 0.8, "disc": 1.5, "motion": 4.0}  # sizes under which sharp photographs look alike
ROUND = [Shape("gaussian", size / 4) for size in range(33)] + [Shape("disc", size / 4) for size in range(4, 33)]
LENGTHS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 25)
MOVED = [Shape("motion", length, 7.5 * n) for length in LENGTHS for n in range(24)]
SOFT = [
    replace(shape, softness=softness)
    for kind, least, softnesses in (("disc", 2, (0.5, 1.0)), ("motion", 6, (1.0,)))
    for softness in softnesses
    for shape in ROUND + MOVED
    if shape.kind == kind and shape.size >= least
]
SHAPES = ROUND + MOVED + SOFT
A_SOFTNESS = {"disc": 3.0, "motion": 12.0}  # cost of softness that came besides; a soft photograph passes for moved
LARGEST = {"gaussian": 8.0, "disc": 8.0, "motion": 25.0}
ALIKE_SIZE, ALIKE_ANGLE = (0.25, 0.15), 10.0  # pixels, share of the size; degrees
ALIKE = 0.99  # similarity of spectra from which it makes no difference; Gaussians have it whose sigmas differ by 15%
TRIED = (
    "Gaussians up to sigma 8, discs up to radius 8, movements up to 25 pixels, kernels up to 19 x 19, "
    "means of up to 16 frames"
)
WELL = 1.5  # misfit of a shape up to which no kernel is sought
MORE = 0.12  # correlation of what a round shape leaves in the quarters of the frames, from which it is not all there is
CLEARLY = 0.6  # of the cost of the best shape, what a kernel may have at most
WORST_KERNEL = 2.0  # misfit; kernels that are wrong reach it by fitting whatever is in the picture
SAME = 0.84  # similarity of a kernel to the best shape from which it is that shape
A_WEIGHT = 0.3  # cost of each weight of a kernel: half the logarithm of some 500 bins, counted TOGETHER
MOST_ECHOES = 1.005  # of those that a kernel of the same spectrum and another phase leaves
ITS_REVERSE = 0.88  # similarity of a kernel turned by 180 degrees from which there is no right way round
FEWER_ECHOES = 0.99  # of those of the kernel turned about, what any other may leave
FULL = 0.4  # share of the support that a kernel may fill; more has been taken from the picture
SLIGHT = 0.7  # sigma from which turns begin
MEND = "State what happened as task or degradation instead."
FEW = 3  # frames of a window that is not worth a guess: left alone, such a mean costs next to nothing


class NotIdentified(ValueError):
    """The clip does not tell what happened to it. confidence: of the best guess, where there was one."""

    def __init__(self, reason: str, confidence: float | None = None) -> None:
        super().__init__(f"What happened is not clear: {reason}. Tried were {TRIED}. {MEND}")
        self.confidence = confidence


@dataclass(frozen=True)
class Identified:
    """blur: None where frames are sharp, or have a blur of no known shape: then `kernel`, (h, w) odd, sum 1, centred.

    window: 1 where no mean shows; slow movement can hide one. confidence: the probability of both, or of what is next
    to the same, among all that was tried.
    """

    blur: Shape | None
    window: int
    confidence: float
    kernel: Tensor | None = None


@dataclass(frozen=True)
class _Free:
    """A kernel that explains the clip clearly better than the best shape, and how sure that is."""

    kernel: Tensor
    noise: Tensor
    confidence: float


def identify(frames: Tensor) -> Identified:
    """Find the blur and the window of a clip. Raises NotIdentified where they are not clear.

    frames: (T, H, W) brightness in [0, 1], consecutive, without a cut; H and W even, of LEAST_SIDE or more.
    """
    if min(frames.shape[-2:]) < LEAST_SIDE:
        raise NotIdentified(f"frames of less than {LEAST_SIDE} pixels a side show too little")
    if float(frames.var((-2, -1)).mean()) < FLAT:
        raise NotIdentified("the frames are flat")
    spectra = windowed_spectra(frames)
    spectrum = binned(spectra.abs().square().mean(0))
    found = fit(spectrum, SHAPES, transfers(SHAPES, spectrum))
    best = _likeliest(found)
    blur, sure_of_blur = _blur(found, spectrum)
    more = blur is not None and blur.kind != "motion" and in_common(frames, blur) > MORE
    sought = len(frames) > 1 and (more or float(found.misfit[best]) > WELL)
    free = _free(frames, found, spectrum) if sought else None
    window, sure_of_window = _window(spectra, _noise(spectrum, free.noise if free else found.noise[best]))
    if window > 1 and THRICE * window > len(frames):
        raise NotIdentified(f"a mean of {window} frames takes {THRICE * window} frames of a scene to tell")
    if free and sure_of_window * free.confidence >= LEAST_CONFIDENCE:
        return Identified(None, window, min(1.0, sure_of_window * free.confidence), free.kernel)
    confidence = min(1.0, sure_of_window * sure_of_blur)  # sums of float32 may pass it by 1e-9
    if blur is None and window == 1:
        raise NotIdentified("the frames look sharp, or blurred too little to tell from that")
    if confidence < LEAST_CONFIDENCE:
        unclear = "the window of frames" if sure_of_window < sure_of_blur else "the blur"
        raise NotIdentified(f"{unclear} could be another just as well", confidence)
    if more and window == 1:  # of a clip that moves, a mean over time is more
        raise NotIdentified("the likeliest blur leaves something in common to all parts of the frames", confidence)
    if float(found.misfit[best]) > WORST_MISFIT:
        raise NotIdentified("no such blur leaves a residual that is white", confidence)
    if blur is not None and blur.size >= LARGEST[blur.kind]:
        raise NotIdentified("the blur is wider than those tried", confidence)
    return Identified(blur, window, confidence)


def _free(frames: Tensor, found: Fit, spectrum: Spectrum) -> _Free | None:
    """Turns of kernel and picture from next to no blur and from the best shape; None where neither is clearly better.

    Whiter is not enough: the edges of frames that were not learned from have to say that its phase is right, too.
    """
    learned, judged = split(frames)
    best = _likeliest(found)
    begun = [gaussian_kernel(SLIGHT, SLIGHT)]
    if found.shapes[best].size > 1:
        begun.append(drawn(found.shapes[best]))
    kernels = [alternate(learned, start) for start in begun]
    powers = [transfer_of(kernel, *frames.shape[-2:]).abs().square() for kernel in kernels]
    fits = [fit(spectrum, [], free_transfer(power, spectrum)) for power in powers]
    kernel, fitted = min(zip(kernels, fits, strict=True), key=lambda pair: float(pair[1].cost))
    cost, least = float(fitted.cost), float(found.cost[best])
    if float(found.misfit[best]) <= WORST_MISFIT and len(begun) > 1 and similarity(kernel, begun[1]) > SAME:
        return None  # turns have found the shape again, and less exactly
    echoes = total_variation(judged, kernel)
    turned = total_variation(judged, kernel.flip(0, 1))
    told = similarity(kernel, kernel.flip(0, 1)) > ITS_REVERSE or echoes <= FEWER_ECHOES * turned
    phase = told and echoes <= MOST_ECHOES * min(turned, total_variation(judged, kernel, phase=False))
    count = int((kernel > 0).sum())
    if not phase or count > FULL * kernel.numel() or cost > CLEARLY * least or float(fitted.misfit) > WORST_KERNEL:
        return None
    return _Free(kernel, fitted.noise[0], 1 / (1 + math.exp(min(50.0, cost + A_WEIGHT * count - least))))


def drawn(shape: Shape) -> Tensor:
    """The kernel of a blur, (h, w) odd; size > 0."""
    match shape.kind:
        case "gaussian":
            kernel = gaussian_kernel(shape.size, shape.size)
        case "disc":
            kernel = disc_kernel(shape.size)
        case "motion":
            kernel = motion_kernel(shape.size, shape.angle)
    return convolved(kernel, gaussian_kernel(shape.softness, shape.softness)) if shape.softness else kernel


def _prior(found: Fit) -> Tensor:
    """Logarithms: each kind as likely as any other, those with softness of their own less."""
    families = [(shape.kind, shape.softness > 0) for shape in found.shapes]
    share = Counter(families)
    return torch.tensor([-math.log(share[kind, soft]) - (A_SOFTNESS[kind] if soft else 0) for kind, soft in families])


def _likeliest(found: Fit) -> int:
    return int((_prior(found) - found.cost).argmax())


def _blur(found: Fit, spectrum: Spectrum) -> tuple[Shape | None, float]:
    """The most probable blur and the probability that it is this or one like it; None: none that can be told."""
    shapes = found.shapes
    probability = torch.softmax(_prior(found) - found.cost, 0)
    number = _likeliest(found)
    best = shapes[number]
    if _slight(best):
        return None, sum(float(p) for p, shape in zip(probability, shapes, strict=True) if _slight(shape))
    alike = _similar(found.transfer, number, spectrum) > ALIKE
    alike |= torch.tensor([_near(shape, best) for shape in shapes])
    near = _around(best)
    finer = near[int(fit(spectrum, near, transfers(near, spectrum)).cost.argmin())]
    if finer.softness < LEAST["gaussian"]:
        finer = replace(finer, softness=0.0)  # which sharp photographs have, too
    return finer, float(probability[alike].sum())


def _slight(shape: Shape) -> bool:
    return shape.size < LEAST[shape.kind]


def _near(shape: Shape, other: Shape) -> bool:
    absolute, relative = ALIKE_SIZE
    turned = abs((shape.angle - other.angle + 90) % 180 - 90)
    near = abs(shape.size - other.size) <= max(absolute, relative * other.size)
    return shape.kind == other.kind and near and turned <= ALIKE_ANGLE


def _similar(transfer: Tensor, number: int, spectrum: Spectrum) -> Tensor:
    """(candidates,): normalised correlation of |K| with that of one of them."""
    size = (transfer / 2).exp() * spectrum.cells.sqrt()
    size = size / size.norm(dim=1, keepdim=True)
    alike: Tensor = size @ size[number]
    return alike


def _around(shape: Shape) -> list[Shape]:
    """The grid about one of its points, finer."""
    softer = [shape.softness + step / 4 for step in range(-2, 3)] if shape.softness else [0.0]
    if shape.kind == "motion":
        steps = [(length / 4, 1.5 * turn) for length in range(-3, 4) for turn in range(-2, 3)]
        sharp = [Shape("motion", shape.size + length, shape.angle + turn) for length, turn in steps]
    else:
        sharp = [Shape(shape.kind, round(shape.size + step / 20, 2)) for step in range(-4, 5)]
    return [replace(one, softness=softness) for one in sharp for softness in softer]


def _noise(spectrum: Spectrum, fitted: Tensor) -> Tensor:
    """(bands,): power of noise in each of BANDS; fitted: log N and b. Never more than the highest frequencies hold."""
    centres = torch.tensor([(low + high) / 2 for low, high in BANDS])
    top = spectrum.log_power[spectrum.f > 0.45].mean()
    at_top = torch.minimum(fitted[0] - 0.95 * fitted[1], top)
    return torch.exp(at_top + fitted[1].clamp(0, 2) * (0.95 - 2 * centres))


def _window(spectra: Tensor, noise: Tensor) -> tuple[int, float]:
    """The window and how sure it is; noise: in each of BANDS. Nothing that moves: 1, as it makes no difference."""
    costs = window_costs(spectra, noise)
    if costs is None:
        return 1, 1.0
    prior = torch.tensor([0.5] + [0.5 / (len(WINDOWS) - 1)] * (len(WINDOWS) - 1)).log()
    probability = torch.softmax(prior - costs, 0)
    window = WINDOWS[int(probability.argmax())]
    alike = range(1, FEW + 1) if window == 1 else range(window, window + 1)
    return window, float(sum(probability[n - 1] for n in alike))
