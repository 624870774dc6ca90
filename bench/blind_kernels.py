"""Kernels of no known shape, found against true: the second table of blind estimates in docs/quality.md.

    python bench/blind_kernels.py CLIP [CLIP ...]              # 256x160, the middle
    python bench/blind_kernels.py CLIP --size as-is            # what the service looks at: 512x512 of the middle
    python bench/blind_kernels.py CLIP --size as-is --softness 1.9 --kernels arc corner "two spots"

`found` is what `identify` makes of 25 frames in 8 bits or after H.264 (crf 10), and its confidence. `alike` is the
largest normalised cross-correlation with the true kernel over shifts. PSNR in dB of the brightness of the middle frame,
as given and after the data step alone with the best shape (accepted or not), with what was found, and with the true
kernel; the best of shifts by up to two pixels, as none can be told. A rim of 12 pixels does not count. With --softness
a clip was blurred by a Gaussian of that sigma before, as by a lens, and the true kernel is both.
"""

import argparse
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from blind import FILES, named, sent
from cases import SIZE, middle, scaled, size_of
from torch import Tensor

from worker.estimate import BRIGHTNESS, SIDE
from worker.measures import psnr
from worker.solver.blind import SHAPES, NotIdentified, drawn, identify
from worker.solver.blind_kernel import similarity
from worker.solver.blind_space import Shape, binned, fit, transfers, windowed_spectra
from worker.solver.data_step import data_step
from worker.solver.kernels import convolved, disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.operators import Chain
from worker.solver.spatial import Convolution
from worker.video import read_clip

RHO = 0.017  # one level of noise against pixels that are 0.06 off, in [-1, 1]
RIM = 12


def along(points: Tensor) -> Tensor:
    """(17, 17): even light along a dense way (N, 2) of rows and columns from the middle, shared out bilinearly."""
    kernel = torch.zeros(17, 17, dtype=torch.float64)
    place = points.double() + 8
    corner = place.floor()
    for down in (0, 1):
        for right in (0, 1):
            step = torch.tensor([down, right])
            weight = (1 - (place - corner - step).abs()).prod(1)
            kernel.index_put_(tuple((corner + step).long().T), weight, accumulate=True)
    return kernel / kernel.sum()


def arc() -> Tensor:
    turn = torch.deg2rad(torch.arange(10, 170, 0.1, dtype=torch.float64))
    return along(torch.stack([3 - 5 * turn.sin(), 5 * turn.cos()], 1))


def corner() -> Tensor:
    way = torch.arange(0, 1, 0.001, dtype=torch.float64)
    down = torch.stack([9 * way - 5, torch.full_like(way, -4)], 1)
    right = torch.stack([torch.full_like(way, 4), 8 * way - 4], 1)
    return along(torch.cat([down, right]))


def twice() -> Tensor:
    spots = F.pad(torch.tensor([[0.6, 0, 0, 0, 0, 0, 0], [0] * 7, [0, 0, 0, 0, 0, 0, 0.4]]).double(), (5, 5, 7, 7))
    return F.conv2d(spots[None, None], gaussian_kernel(0.7, 0.7)[None, None], padding=4)[0, 0]


KERNELS = {
    "sigma 1.5 x 3.5 at 30": gaussian_kernel(1.5, 3.5, 30),
    "arc": arc(),
    "corner": corner(),
    "two spots": twice(),
    "disc 3": disc_kernel(3),
    "motion 9 at 30": motion_kernel(9, 30),
    "sigma 2": gaussian_kernel(2, 2),
}


def best_shape(y: Tensor) -> Shape:
    """Of brightness (T, H, W), whether or not it would be accepted."""
    spectrum = binned(windowed_spectra(y).abs().square().mean(0))
    shapes = [shape for shape in SHAPES if shape.size > 0]
    return shapes[int(fit(spectrum, shapes, transfers(shapes, spectrum)).cost.argmin())]


def restored(y: Tensor, truth: Tensor, kernel: Tensor) -> float:
    """PSNR of one frame, (H, W), after the data step."""
    measured = 2 * y[None, None] - 1
    x = data_step(Chain([Convolution(kernel.double() / kernel.double().sum())]), None, measured, measured, RHO)
    return nearest((x[0, 0].clamp(-1, 1) + 1) / 2, truth)


def nearest(x: Tensor, truth: Tensor) -> float:
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    moved = (x.roll((down, right), (0, 1)) for down in range(-2, 3) for right in range(-2, 3))
    return max(psnr(one[inner][None, None], truth[inner][None, None]) for one in moved)


def row(y: Tensor, truth: Tensor, kernel: Tensor) -> list[str]:
    """Cells for brightness (T, H, W) as given and as it was."""
    shape, middle = best_shape(y), len(y) // 2
    cells = [nearest(y[middle], truth[middle]), restored(y[middle], truth[middle], drawn(shape))]
    result, found = "", None
    try:
        it = identify(y)
        found = drawn(it.blur) if it.blur else it.kernel
        window = f" x{it.window}" if it.window > 1 else ""
        result = f"{'a kernel' if it.kernel is not None else named(it.blur)}{window} {it.confidence:.2f}"
    except NotIdentified:
        result = "refused"
    cells.append(math.nan if found is None else restored(y[middle], truth[middle], found))
    cells.append(restored(y[middle], truth[middle], kernel))
    likeness = "-" if found is None else f"{similarity(found, kernel):.2f}"
    return [named(shape), result, likeness, *(f"{cell:.2f}".replace("nan", "-") for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--crf", type=int, default=10)
    parser.add_argument("--size", type=size_of, default=SIZE, help="such as 640x384, or as-is")
    parser.add_argument("--softness", type=float, default=0)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    args = parser.parse_args()

    print("| clip | truth | file | best shape | found | alike | given | best shape | found | true kernel |")
    print("|---" * 10 + "|")
    brightness = torch.tensor(BRIGHTNESS)
    with TemporaryDirectory() as directory:
        for path in args.clips:
            clip = read_clip(path, args.frames)
            truth = middle(scaled(clip, args.frames, args.size), SIDE)
            for name in args.kernels:
                kernel = KERNELS[name]
                if args.softness:
                    kernel = convolved(kernel, gaussian_kernel(args.softness, args.softness))
                blurred = Convolution(kernel).A(truth)
                for file in FILES:
                    y = sent(blurred, file, clip, args.crf, Path(directory))
                    seen, was = (torch.einsum("c,tchw->thw", brightness, x) for x in (y, truth))
                    cells = row(seen, was, kernel)
                    print("|", " | ".join([path.stem, name, file, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
