"""Restore a file in this process, without a service: `vxl restore in.mp4 -o out.mp4 --task deblur`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.contract import OutputSettings, SolverSettings
from app.degradations import Degradation, Task, degradations_of
from app.settings import Settings
from worker.encode import write_results
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
    comparison: Annotated[Path | None, typer.Option(help="also write input and result side by side")] = None,
) -> None:
    """Restore a clip in this process."""
    for path in filter(None, (output, comparison)):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        degradations = _stated(task, degradation)
        how = SolverSettings.model_validate({"preset": preset, "seed": seed, "prompt": prompt, "tau": tau})
        form = OutputSettings(crf=crf)
        settings = Settings()
        clip = read_clip(source)
        beside = read_beside(mask, kernel)
        with console.status("loading the prior"):
            prior = prior_of(settings)
        problem = pose(prior, clip.frames, degradations, beside, noise_sigma, how, settings.micro_batch)
    except (ValidationError, ValueError, OSError) as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(2) from None
    x = _with_bar(prior, problem, how)
    with TemporaryDirectory(dir=output.parent, prefix=".vxl-") as directory:
        restored, lifted = ((z.clamp(-1, 1) + 1) / 2 for z in (x, problem.lifted))
        look, pts = restored_times(clip, clip.pts, problem.operator)
        files, left_out = write_results(Path(directory), look, pts, restored, lifted, form)
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


def _stated(task: Task | None, degradation: str | None) -> list[Degradation]:
    if (task is None) == (degradation is None):
        raise ValueError("give either --task or --degradation")
    if task:
        return degradations_of(task)
    stated = TypeAdapter(list[Degradation]).validate_json(degradation or "")
    if not stated:
        raise ValueError("nothing happened to the clip: the list of degradations is empty")
    return stated


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
