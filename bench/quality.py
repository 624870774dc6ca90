"""How much the solver gives back, and what each of its parts is worth; tables, and figures under docs/figures.

    make quality CLIPS="CLIP ..."                     # all of it, for docs/quality.md
    python bench/quality.py CLIP [CLIP ...]           # the six tasks
    python bench/quality.py CLIP --show inversion tau spectrum
    python bench/quality.py CLIP --size as-is --tasks deblur

A clip is scaled to 256x160 (middle cropped) or to any other --size, degraded, written as H.264, read back, restored,
written as H.264 and read back again, as a client of the service would see it. --show picks from

    tasks                                      every task, beside what it was given and the data step alone
    inversion tau cg lowpass noise             the paper's experiments, one part of the loop changed at a time
    heatmap                                    PSNR by tau and low-pass: how worker/tuning.py was chosen
    spectrum                                   where in frequency each stage of each step mends or harms

Columns of `tasks`, PSNR in dB:

    given   what came in, on the grid of the clip: lost pixels black, small clips enlarged bicubically
    lift    what the solver starts from
    fixed   the data step alone, with the trust of the loop's own last step
    data    the data step alone, with the trust that suits it best (the truth being known, which the solver has not)
    full    the whole loop

then, of the last two, SSIM, sharpness (RMS gradient over the truth's), VMAF and warp error (RMS in levels of 255
between frames moved onto each other along the truth's motion; the truth's own first); the RMS residual y - A x of the
loop's result before it is written, in levels of 255; LPIPS and FVD where --lpips and --fvd name their networks
(worker/learned.py).
"""

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cases import OUTPUT_CRF, SIX, SIZE, Case, degrade, scaled, size_of, through_h264
from experiments import EXPERIMENTS, heatmap, variants
from figures import draw_experiment, draw_heatmap, draw_spectra
from spectra import spectra
from torch import Tensor

from app.degradations import Task
from app.restoration import SolverSettings
from worker.learned import Learned
from worker.measures import psnr, sharpness, ssim, warp_errors
from worker.solve import Problem, solve
from worker.solver.data_step import data_step
from worker.solver.prior import DiffusersPrior, load_prior
from worker.video import Clip, read_clip
from worker.vmaf import vmaf

SHOWN = ("tasks", *EXPERIMENTS, "heatmap", "spectrum")
PLUS = ("deblur_plus", "super_resolution_x4_plus", "inpaint_plus")  # what the experiments are made on


def data_alone(problem: Problem) -> Tensor:
    """The data step from the lifted measurement, with the trust of the solver's last step; in [0, 1]."""
    rho = (2 * problem.noise.sigma / problem.tuning.floor) ** 2
    return (data_step(problem.operator, problem.gram, problem.lifted, problem.y, rho).clamp(-1, 1) + 1) / 2


def best_data_alone(case: Case, problem: Problem) -> Tensor:
    """The data step alone with the trust that suits it best, the truth being known: the strongest rival there is."""
    tries = [
        data_alone(replace(problem, tuning=replace(problem.tuning, floor=floor)))
        for floor in (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
    ]
    return max(tries, key=lambda clip: psnr(clip, case.truth))


class Bench:
    """All that the tables share."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.args, self.scratch = args, scratch
        self.prior: DiffusersPrior = load_prior(args.model)
        self.settings = SolverSettings()
        self.learned = Learned(args.lpips, args.fvd)
        self.clips: dict[str, Clip] = {path.stem: read_clip(path, args.frames) for path in args.clips}
        self.truths = {name: scaled(clip, args.frames, args.size) for name, clip in self.clips.items()}

    def case(self, name: str, task: str) -> Case:
        return degrade(Task(task), self.clips[name], self.truths[name], self.args.crf, self.scratch)

    def posed(self, case: Case) -> Problem:
        return case.posed(self.prior, self.settings, self.args.as_bundled)

    def sent_back(self, x: Tensor, case: Case) -> Tensor:
        """A result in [-1, 1] as the client gets it."""
        return through_h264((x + 1) / 2, case.clip, OUTPUT_CRF, self.scratch)

    # --- the six tasks

    def tasks(self) -> None:
        """Every task on every clip."""
        print(
            "| clip | task | given | lift | fixed | data | full "
            "| SSIM | | sharp | | VMAF | | warp | | | residual | s/frame |"
        )
        print("|---" * 18 + "|")
        ends: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, truth in self.truths.items():
            print(f"| {name} | (autoencoder) | | | | | {self.ceiling(truth):.2f} |" + " |" * 11)
            for task in self.args.tasks:
                case = self.case(name, task)
                cells, full = self._row(case)
                ends[task].append((full, truth))
                print("|", " | ".join([name, task, *cells]), "|", flush=True)
        for task, pairs in ends.items():
            near = [value for full, truth in pairs if (value := self.learned.lpips(full, truth)) is not None]
            far = self.learned.fvd(*zip(*pairs, strict=True))
            if near or far is not None:
                print(f"{task}: LPIPS {near}, FVD {far}")

    def _row(self, case: Case) -> tuple[list[str], Tensor]:
        problem, truth = self.posed(case), case.truth
        lifted = ((problem.lifted + 1) / 2).clamp(0, 1)
        given = lifted if case.measured.shape != truth.shape else case.measured
        fixed = self.sent_back(2 * data_alone(problem) - 1, case)
        data = self.sent_back(2 * best_data_alone(case, problem) - 1, case)
        started = time.monotonic()
        x = solve(self.prior, problem, self.settings)
        seconds = (time.monotonic() - started) / len(x)
        full = self.sent_back(x, case)
        both = (data, full)
        cells = [f"{psnr(clip, truth):.2f}" for clip in (given, lifted, fixed, *both)]
        cells += [f"{ssim(clip, truth):.3f}" for clip in both]
        cells += [f"{sharpness(clip, truth):.3f}" for clip in both]
        cells += [f"{vmaf(clip, truth):.1f}" for clip in both]
        cells += [f"{255 * warp_errors(clip, truth):.2f}" for clip in (truth, *both)]
        return [*cells, f"{255 * problem.residual(x):.2f}", f"{seconds:.2f}"], full

    @torch.inference_mode()
    def ceiling(self, truth: Tensor) -> float:
        """PSNR of the autoencoder's round trip."""
        back = self.prior.decode(self.prior.encode(2 * truth - 1), (truth.shape[-2], truth.shape[-1])).clamp(-1, 1)
        return psnr((back + 1) / 2, truth)

    # --- the paper's experiments

    def experiment(self, which: str) -> None:
        """One part of the loop changed at a time."""
        print("| clip | task | variant | PSNR | SSIM | VMAF | warp | residual |\n" + "|---" * 8 + "|")
        drawn: dict[str, dict[str, list[float]]] = {task: defaultdict(list) for task in self.args.plus}
        for name, truth in self.truths.items():
            for task in self.args.plus:
                case = self.case(name, task)
                problem = self.posed(case)
                for variant, changed, step in variants(which, self.prior, problem, self.settings):
                    x = solve(self.prior, changed, self.settings, data_step=step)
                    back = self.sent_back(x, case)
                    value = psnr(back, truth)
                    drawn[task][variant].append(value)
                    cells = [f"{value:.2f}", f"{ssim(back, truth):.3f}", f"{vmaf(back, truth):.1f}"]
                    cells += [f"{255 * warp_errors(back, truth):.2f}", f"{255 * problem.residual(x):.2f}"]
                    print("|", " | ".join([name, task, variant, *cells]), "|", flush=True)
        draw_experiment(which, drawn, list(self.truths), self.args.figures / f"{which}.png")

    def heatmap(self) -> None:
        """Mean PSNR over the clips, before it is written again, by tau and low-pass."""
        maps = {}
        for task in self.args.tasks:
            cases = [self.case(name, task) for name in self.truths]
            maps[task] = heatmap(self.prior, cases, self.settings)
            taus, lowpasses, values = maps[task]
            print(f"\n{task}: rows tau, columns low-pass {list(lowpasses)}")
            for tau, line in zip(taus, values, strict=True):
                print(f"    {tau:.2f}  " + "  ".join(f"{value:6.2f}" for value in line), flush=True)
        draw_heatmap(maps, self.args.figures / "heatmap.png")

    def spectrum(self) -> None:
        """The error's spectrum after each stage of each step, of the first clip."""
        name = next(iter(self.truths))
        for task in self.args.plus:
            case = self.case(name, task)
            found = spectra(self.prior, case, self.posed(case), self.settings)
            draw_spectra(task, found, self.args.figures / f"spectrum_{task}.png")
            for step in found.steps:
                told = ", ".join(f"{stage} {total:.2f}" for stage, total in step.totals.items())
                print(f"{name} {task} t = {step.t}: RMS error in levels of 255: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--show", nargs="+", default=["tasks"], choices=[*SHOWN, "all"])
    parser.add_argument("--tasks", nargs="+", default=SIX, choices=[task.value for task in Task])
    parser.add_argument("--plus", nargs="+", default=PLUS, choices=[task.value for task in Task], help="in experiments")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--crf", type=int, default=10, help="of the degraded clip's H.264")
    parser.add_argument("--size", type=size_of, default=SIZE, help="such as 640x384, or as-is")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--as-bundled", action="store_true", help="the bundled checkpoint's settings for any model")
    parser.add_argument("--lpips", type=Path, help="TorchScript of LPIPS' network")
    parser.add_argument("--fvd", type=Path, help="TorchScript of I3D, as FVD takes it")
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    args = parser.parse_args()

    size = "x".join(map(str, args.size)) if args.size else "their own size"
    print(f"{args.frames} frames of {size}, H.264 crf {args.crf} in, crf {OUTPUT_CRF} out")
    missing = [name for name, file in (("LPIPS", args.lpips), ("FVD", args.fvd)) if file is None]
    if missing:
        print(f"without {' and '.join(missing)}: their weights are not here")
    with TemporaryDirectory() as directory:
        bench = Bench(args, Path(directory))
        for shown in SHOWN if "all" in args.show else args.show:
            print(f"\n## {shown}\n")
            bench.experiment(shown) if shown in EXPERIMENTS else getattr(bench, shown)()


if __name__ == "__main__":
    main()
