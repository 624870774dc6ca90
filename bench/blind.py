"""What is found to have happened to a clip, against what did: the table of docs/quality.md.

    python bench/blind.py CLIP [CLIP ...]              # 256x160, the middle
    python bench/blind.py CLIP --size as-is            # what the service looks at: at most 512x512 of the middle

A clip is blurred, averaged over `window` frames or not, and rounded to 8 bits or sent through H.264 (crf 10). A cell
has what was found, then its confidence; `refused` with the confidence that was too little. `x7` is a window of 7.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cases import SIZE, middle, scaled, size_of, through_h264
from torch import Tensor

from worker.estimate import BRIGHTNESS, FRAMES, SIDE
from worker.solver.blind import NotIdentified, identify
from worker.solver.blind_space import Shape
from worker.solver.kernels import disc_kernel, motion_kernel
from worker.solver.operators import Chain, Operator
from worker.solver.spatial import Convolution, GaussianBlur
from worker.solver.temporal import TemporalAverage
from worker.video import Clip, read_clip

BLURS: dict[str, list[Operator]] = {
    "sharp": [],
    **{f"sigma {sigma}": [GaussianBlur(float(sigma))] for sigma in (1, 2, 3, 4, 5)},
    "motion 9 at 30": [Convolution(motion_kernel(9, 30))],
    "disc 3": [Convolution(disc_kernel(3))],
}
FILES = ("8 bits", "H.264")
WINDOWS = (1, 7)


def sent(y: Tensor, file: str, like: Clip, crf: int, scratch: Path) -> Tensor:
    """(T, 3, H, W): what is left of measured frames in such a file."""
    y = y.clamp(0, 1)
    return (y * 255).round() / 255 if file == "8 bits" else through_h264(y, like, crf, scratch)


def found(y: Tensor) -> str:
    """What `identify` makes of frames (T, 3, H, W)."""
    try:
        it = identify(torch.einsum("c,tchw->thw", torch.tensor(BRIGHTNESS), y))
    except NotIdentified as error:
        return "refused" if error.confidence is None else f"refused {error.confidence:.2f}"
    window = f" x{it.window}" if it.window > 1 else ""
    return f"{'a kernel' if it.kernel is not None else named(it.blur)}{window} {it.confidence:.2f}"


def named(blur: Shape | None) -> str:
    if blur is None:
        return "sharp"
    besides = f" + sigma {blur.softness:g}" if blur.softness else ""
    if blur.kind == "motion":
        return f"motion {blur.size:g} at {blur.angle:g}{besides}"
    return f"{blur.kind.replace('gaussian', 'sigma')} {blur.size:.2f}{besides}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--crf", type=int, default=10)
    parser.add_argument("--size", type=size_of, default=SIZE, help="such as 640x384, or as-is")
    args = parser.parse_args()

    print("| clip | truth |", " | ".join(f"{file}, x{window}" for window in WINDOWS for file in FILES), "|")
    print("|---" * (2 + len(FILES) * len(WINDOWS)) + "|")
    with TemporaryDirectory() as directory:
        for path in args.clips:
            clip = read_clip(path, args.frames)
            truth = middle(scaled(clip, args.frames, args.size), SIDE)
            for name, operators in BLURS.items():
                cells = []
                for window in WINDOWS:
                    steps = [TemporalAverage(window), *operators] if window > 1 else operators
                    y = Chain(steps).A(truth)
                    cells += [found(sent(y, file, clip, args.crf, Path(directory))) for file in FILES]
                print("|", " | ".join([path.stem, name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
