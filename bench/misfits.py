"""How often a mean over time is doubted where it was made, and found where it was not.

    python bench/misfits.py CLIP [CLIP ...]

Of 25 frames of 256x160: pans over the first frame of each clip, two such pans joined by a cut or a dissolve or with a
flash, all of them averaged as one, and the clips themselves. A mean of 4, 7 or 13 (3 for 4 of the clips), then a blur
of sigma 3, shrinking by 4 or nothing; H.264 at crf 10 and 24, or 8 bits with noise of 1%. The mean was made (right),
made but for six frames (six), or not at all (none). Printed are those right statements of which a frame was doubted,
in how many of the others just the frames in question were found, by speed in pixels a frame, and what the others cost:
how many of all frames the data step leaves more than 0.5 dB worse than with just the frames in question left out, and
by how many dB those are worse on average. Pans of which none was averaged are told apart by whether the lowest
frequency that the stated mean would have taken away is above the noise ("heard"): where it is not, nothing contradicts
the statement.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from cases import SIZE, scaled, through_h264
from motion import FRAMES, ODD, pan, partly
from quality import data_alone
from torch import Tensor

from app.restoration import Restoration
from worker.measures import psnr
from worker.solve import Problem, setup
from worker.solver.misfit import HEARD, OCTAVES, misfits, moving_energy, octaves_of
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.segments import Timeline, without_mixing
from worker.solver.temporal import TemporalAverage
from worker.video import Beside, Clip, read_clip

THEN: dict[str, list[dict[str, object]]] = {
    "blur": [{"kind": "gaussian_blur", "sigma": 3}],
    "shrink": [{"kind": "downsample", "factor": 4}],
    "nothing": [],
}
STATEMENTS: dict[str, Callable[[Tensor, TemporalAverage], Tensor]] = {
    "right": lambda x, average: average.A(x),
    "six": lambda x, average: partly(average.A(x), x, ODD),
    "none": lambda x, _: x,
}
FOUND = {"right": [], "six": list(ODD), "none": list(range(FRAMES))}
WORSE = 0.5  # dB
Case = tuple[str, Tensor, str, int, int]  # name, truth, what was done then, window, crf (0: noise)


def pans(name: str, picture: Tensor) -> Iterator[Case]:
    for speed in (0, 1, 2, 4, 8, 16, 64):
        x = pan(picture, speed)
        for window in (4, 7, 13):
            yield f"{name} {speed}", x, "blur", window, 10
        yield f"{name} {speed}", x, "blur", 7, 24
        yield f"{name} {speed}", x, "blur", 7, 0
        if 0 < speed < 64:
            yield f"{name} {speed}", x, "shrink", 7, 10
            yield f"{name} {speed}", x, "nothing", 7, 10


def changes(name: str, picture: Tensor, others: list[Tensor]) -> Iterator[Case]:
    """Always right, as they were averaged with the rest."""
    for speed in (0, 1, 4):
        x = pan(picture, speed)
        for other in others:
            cut = torch.cat([x[:12], pan(other, speed, 40)[12:]])
            yield f"{name} cut at {speed}", cut, "blur", 7, 10
            yield f"{name} cut at {speed}", cut, "shrink", 7, 10
        share = ((torch.arange(FRAMES) - 8) / 8).clamp(0, 1)[:, None, None, None]
        yield f"{name} dissolve at {speed}", x * (1 - share) + pan(others[0], speed, 40) * share, "blur", 7, 10
        x[12] = (1.8 * x[12] + 0.1).clamp(0, 1)
        yield f"{name} flash at {speed}", x, "blur", 7, 10


def whole(name: str, x: Tensor) -> Iterator[Case]:
    for then in THEN:
        for window in (3, 7, 13):
            for crf in (10, 24):
                yield f"{name} itself", x, then, window, crf


class Bench:
    """Counts what is found."""

    def __init__(self, prior: DiffusersPrior, like: Clip, scratch: Path) -> None:
        self.prior, self.like, self.scratch = prior, like, scratch
        self.counts: dict[tuple[str, str, str], list[int]] = {}
        self.losses: dict[tuple[str, str, str], list[float]] = {}

    def look(self, case: Case, statement: str) -> None:
        name, truth, then, window, crf = case
        stated = [{"kind": "temporal_average", "window": window}, *THEN[then]]
        wanted = Restoration.model_validate({"degradation": stated})
        ready = setup(self.prior, wanted.degradations(), Beside(), wanted.solver, SIZE[0] * SIZE[1])
        y = STATEMENTS[statement](truth, TemporalAverage(window))
        for operator in ready.operator.operators[1:]:
            y = operator.A(y)
        if crf:
            y = through_h264(y, self.like, crf, self.scratch)
        else:
            y = ((y + torch.randn_like(y) / 100).clamp(0, 1) * 255).round() / 255
        timeline = Timeline(ready.operator.operators, len(truth))
        (part,) = timeline.parts(len(truth))
        problem = ready.pose(y, None, timeline.operators_of(part))
        assert timeline.only_average is not None
        found = misfits(problem.y, timeline.only_average, part.own, problem.codec_noise)
        if statement == "right" and found:
            print(f"doubted: {name}, then {then}, window {window}, crf {crf}: {found}", flush=True)
        clip = name.split(" ", 1)[1]
        if statement == "none" and clip.isdigit():
            clip += ", heard" if _heard(problem, window * int(clip)) else ", not heard"
        key = statement, clip, then
        count = self.counts.setdefault(key, [0, 0])
        count[0] += found == FOUND[statement]
        count[1] += 1
        losses = self.losses.setdefault(key, [])
        if found == FOUND[statement]:
            return
        done, best = (
            data_alone(problem.degraded_by(without_mixing(problem.operator, part, frames)))
            for frames in (found, FOUND[statement])
        )
        lost = [psnr(b, x) - psnr(a, x) for a, b, x in zip(done, best, truth, strict=True)]
        losses += [loss for loss in lost if loss > WORSE]


def _heard(problem: Problem, moved: int) -> bool:
    """Whether more than noise is about the first zero of a mean over a movement of so many pixels."""
    half_cycles = 2 * SIZE[0] / moved
    octaves = dict(zip(OCTAVES, octaves_of(problem.y), strict=False))
    near = max((low for low in octaves if low <= half_cycles), default=OCTAVES[0])
    return half_cycles < 2 * near and moving_energy(octaves[near]) > HEARD * problem.codec_noise**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    clips = {path.stem: read_clip(path, FRAMES) for path in args.clips}
    names = list(clips)
    like = replace(clips[names[0]], pts=[512 * n for n in range(FRAMES)])
    pictures = {name: clip.frames[0].float() for name, clip in clips.items()}
    with TemporaryDirectory() as directory:
        bench = Bench(load_prior(), like, Path(directory))
        for n, name in enumerate(names):
            moving = [*pans(name, pictures[name])]
            x = scaled(clips[name], FRAMES, SIZE)
            moving += whole(name, x) if len(x) == FRAMES else []
            for case in moving:
                for statement in STATEMENTS:
                    if statement == "right" or not case[0].endswith(" 0"):
                        bench.look(case, statement)
            others = [pictures[names[(n + k) % len(names)]] for k in range(1, min(4, len(names)))]
            for case in changes(name, pictures[name], others) if others else ():
                bench.look(case, "right")
    print("| statement | clip | then | just those found | of | frames worse | of | by, dB |\n" + "|---" * 8 + "|")
    for key, (right, cases) in sorted(bench.counts.items()):
        worse = bench.losses[key]
        cells = [*key, right, cases, len(worse), cases * FRAMES, f"{fmean(worse):.2f}" if worse else "-"]
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
