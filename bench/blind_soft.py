"""What is found of a clip that was soft before it was blurred, and what undoing that is worth.

    python bench/blind_soft.py CLIP [CLIP ...]

The middle 512x512 of 25 frames is softened by a Gaussian, as by a lens that is not quite in focus, and then blurred by
a disc of radius 3, what its owner would call the degradation. PSNR in dB against the softened clip and against the
sharp one: as given, and by the data step alone with the disc stated, with disc and softness stated, and with what was
found. `alike` is the normalised cross-correlation of what was found with the disc, and with disc and softness.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from blind import FILES, named, sent
from cases import middle
from quality import data_alone
from torch import Tensor

from app.degradations import KernelBlur
from app.restoration import SolverSettings
from worker.estimate import BRIGHTNESS, SIDE
from worker.measures import psnr
from worker.solve import TILE_PIXELS, setup
from worker.solver.blind import NotIdentified, drawn, identify
from worker.solver.blind_kernel import similarity
from worker.solver.kernels import convolved, disc_kernel, gaussian_kernel
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.spatial import Convolution, GaussianBlur
from worker.video import Beside, read_clip

SOFTNESS = (0.0, 1.0, 1.9)
RADIUS = 3.0
SHOWN = 5  # frames that are restored


def undone(prior: DiffusersPrior, y: Tensor, kernel: Tensor) -> Tensor:
    """By the data step alone."""
    weights = (kernel.double() / kernel.double().sum()).tolist()
    stated = KernelBlur(kind="kernel_blur", kernel=weights)
    ready = setup(prior, [stated], Beside(), SolverSettings(), TILE_PIXELS)
    return data_alone(ready.pose(y, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    args = parser.parse_args()
    prior, disc = load_prior(), disc_kernel(RADIUS)
    print("| clip | softness | file | found | alike | against | given | disc | disc and softness | found |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as directory:
        for path in args.clips:
            clip = read_clip(path, 25)
            sharp = middle(clip.frames.float(), SIDE)
            for softness in SOFTNESS:
                soft = GaussianBlur(softness).A(sharp) if softness else sharp
                total = convolved(disc, gaussian_kernel(softness, softness)) if softness else disc
                for file in FILES:
                    y = sent(Convolution(disc).A(soft), file, clip, 10, Path(directory))
                    try:
                        it = identify(torch.einsum("c,tchw->thw", torch.tensor(BRIGHTNESS), y))
                    except NotIdentified:
                        print(f"| {path.stem} | {softness:g} | {file} | refused | - | - | - | - | - | - |", flush=True)
                        continue
                    kernel = it.kernel if it.blur is None else drawn(it.blur)
                    assert kernel is not None
                    what = "a kernel" if it.blur is None else named(it.blur)
                    alike = f"{similarity(kernel, disc):.3f}, {similarity(kernel, total):.3f}"
                    ways = [y[:SHOWN], *(undone(prior, y[:SHOWN], k) for k in (disc, total, kernel))]
                    for against, truth in {"softened": soft, "sharp": sharp}.items():
                        cells = [f"{psnr(x, truth[:SHOWN]):.2f}" for x in ways]
                        start = f"| {path.stem} | {softness:g} | {file} | {what} {it.confidence:.2f} | {alike}"
                        print(start, against, *cells, sep=" | ", end=" |\n", flush=True)


if __name__ == "__main__":
    main()
