"""Restore a file in this process, without a service: `vxl restore in.mp4 -o out.mp4 --task deblur`."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.containers import BesideKind
from app.degradations import Task
from app.fit import Extent, check_fit, check_given
from app.restoration import Restoration, SolverSettings
from app.settings import Settings
from worker.encode import write_results
from worker.measures import compared
from worker.simulate import simulated
from worker.solve import Problem, pose, solve
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import Stage
from worker.task import prior_of
from worker.timing import restored_times
from worker.video import read_beside, read_clip

console = Console(stderr=True)


def restore_file(
    source: Annotated[Path, typer.Argument(help="the degraded clip", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="where the restored clip goes (mp4)")],
    task: Annotated[Task | None, typer.Option(help="what happened to the clip")] = None,
    degradation: Annotated[str | None, typer.Option(help="the same as a JSON list, for anything else")] = None,
    mask: Annotated[Path | None, typer.Option(help="picture or clip, white where pixels are known")] = None,
    kernel: Annotated[Path | None, typer.Option(help="grey picture of what a point looks like after the blur")] = None,
    noise_sigma: Annotated[float | None, typer.Option(help="of pixels in [0, 1]; estimated if not given")] = None,
    seed: Annotated[int, typer.Option()] = 42,
    prompt: Annotated[str, typer.Option()] = "",
    preset: Annotated[str, typer.Option(help="`published` does as the authors' code does")] = "default",
    tau: Annotated[float | None, typer.Option(help="where sampling starts, as a share of the schedule")] = None,
    crf: Annotated[int, typer.Option(help="x264 rate factor of the result")] = 12,
    simulate: Annotated[bool, typer.Option(help="the clip is clean: degrade it first")] = False,
    comparison: Annotated[Path | None, typer.Option(help="also write input and result side by side")] = None,
) -> None:
    """Restore a clip in this process."""
    for path in filter(None, (output, comparison)):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        wanted = _stated(
            task=task,
            degradation=degradation,
            noise_sigma=noise_sigma,
            simulate=simulate,
            solver={"preset": preset, "seed": seed, "prompt": prompt, "tau": tau},
            output={"crf": crf},
        )
        settings = Settings()
        given: dict[BesideKind, Path | None] = {"mask": mask, "kernel": kernel}
        check_given(wanted, [kind for kind, path in given.items() if path])
        clip = read_clip(source)
        beside = read_beside(mask, kernel)
        check_fit(wanted, _extent(clip.frames), None if beside.mask is None else _extent(beside.mask), settings)
        measured = clip.frames
        if simulate:
            measured, beside = simulated(measured, wanted.degradations(), beside, noise_sigma or 0, seed)
        with console.status("loading the prior"):
            prior = prior_of(settings)
        problem = pose(prior, measured, wanted.degradations(), beside, noise_sigma, wanted.solver, settings.micro_batch)
    except (ValueError, OSError) as error:
        console.print(f"[red]{_told(error)}[/red]", highlight=False)
        raise typer.Exit(2) from None
    x = _with_bar(prior, problem, wanted.solver)
    restored, lifted = ((z.clamp(-1, 1) + 1) / 2 for z in (x, problem.lifted))
    with TemporaryDirectory(dir=output.parent, prefix=".vxl-") as directory:
        look, pts = (clip, clip.pts) if simulate else restored_times(clip, clip.pts, problem.operator)
        files, left_out = write_results(Path(directory), look, pts, restored, lifted, wanted.output)
        files["output"].replace(output)
        if comparison:
            shutil.move(files["comparison"], comparison)
    for warning in left_out:
        console.print(f"[yellow]{warning}[/yellow]")
    console.print(
        f"{output}: {problem.frames} frames, noise {problem.noise_sigma:.4f}, "
        f"residual {problem.residual(problem.lifted):.4f} -> {problem.residual(x):.4f}",
        highlight=False,
    )
    if simulate:
        near = compared(restored, lifted, clip.frames)
        console.print(f"PSNR {near['psnr_before']:.2f} -> {near['psnr']:.2f} dB", highlight=False)


def _stated(degradation: str | None, **given: Any) -> Restoration:
    listed = [] if degradation is None else json.loads(degradation)
    return Restoration.model_validate(given | {"degradation": listed})


def _extent(frames: Tensor) -> Extent:
    return Extent(frames.shape[-1], frames.shape[-2], len(frames))


def _told(error: Exception) -> str:
    """In a line for each thing that is wrong, its field first."""
    if not isinstance(error, ValidationError):
        return str(error)
    places = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    return "\n".join(f"{field}: {message}" if field else message for field, message in places)


def _with_bar(prior: DiffusersPrior, problem: Problem, how: SolverSettings) -> Tensor:
    columns = (TextColumn("restoring"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("restoring", total=problem.frames * (problem.steps + 1))

        def watch(stage: Stage, frames: int) -> None:
            if stage in ("invert", "denoise"):
                bar.advance(line, frames)

        return solve(prior, problem, how, watch)


if __name__ == "__main__":
    typer.run(restore_file)
