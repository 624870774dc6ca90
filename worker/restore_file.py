"""Restore a file in this process, without a service: `vxl restore in.mp4 -o out.mp4 --task deblur`.

What takes seconds to import comes in once it is needed, so that what cannot be is refused at once.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.containers import BesideKind
from app.degradations import Task
from app.fit import Extent, check_fit, check_given
from app.invalid import field_of, reason_of
from app.restoration import TIER, Restoration
from app.settings import Settings
from worker.control import NotFinite

if TYPE_CHECKING:
    from worker.solver.stages import Stage

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console(stderr=True)


@app.command()
def restore_file(
    source: Annotated[Path, typer.Argument(help="the degraded clip", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="where the restored clip goes (mp4)")],
    task: Annotated[Task | None, typer.Option(help="what happened to the clip")] = None,
    degradation: Annotated[str | None, typer.Option(help="the same as a JSON list, for anything else")] = None,
    blur: Annotated[str | None, typer.Option(help="`estimate` finds out what happened, or refuses")] = None,
    mask: Annotated[Path | None, typer.Option(help="picture or clip, white where pixels are known")] = None,
    kernel: Annotated[Path | None, typer.Option(help="grey picture of what a point looks like after the blur")] = None,
    noise_sigma: Annotated[float | None, typer.Option(help="of pixels in [0, 1]; estimated if not given")] = None,
    seed: Annotated[int, typer.Option()] = 42,
    prompt: Annotated[str, typer.Option()] = "",
    tier: Annotated[str, typer.Option(help=TIER)] = "exact",
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
            blur=blur,
            noise_sigma=noise_sigma,
            simulate=simulate,
            tier=tier,
            solver={"preset": preset, "seed": seed, "prompt": prompt, "tau": tau},
            output={"crf": crf},
        )
        settings = Settings()
        given: dict[BesideKind, Path | None] = {"mask": mask, "kernel": kernel}
        check_given(wanted, [kind for kind, path in given.items() if path])

        from worker.scenes import scan
        from worker.video import clip_info

        info, seen = clip_info(source), scan(source)
        extent = Extent(info.width, info.height, len(seen.pts))
        check_fit(wanted, extent, _mask_extent(mask), settings)
        with console.status("loading the prior"):
            from worker.loaded import learned_of, prior_of
            from worker.pipeline import Pipeline

            prior = prior_of(settings)
        with _Bar() as bar, TemporaryDirectory(dir=output.parent, prefix=".vxl-") as directory:
            pipeline = Pipeline(
                prior,
                wanted,
                source,
                seen,
                mask,
                kernel,
                micro_batch=settings.micro_batch,
                budget=settings.memory_budget,
                part_frames=settings.part_frames,
                tile_pixels=settings.tile_pixels,
                follower=bar,
                learned=learned_of(settings, prior),
            )
            outcome = pipeline.run(Path(directory))
            outcome.files["output"].replace(output)
            if comparison:
                shutil.move(outcome.files["comparison"], comparison)
    except NotFinite:
        console.print("[red]the prior gave values that are no numbers; a wider VXL_DTYPE may help[/red]")
        raise typer.Exit(1) from None
    except (ValueError, OSError) as error:
        console.print(f"[red]{_told(error)}[/red]", highlight=False)
        raise typer.Exit(2) from None
    for warning in outcome.warnings:
        console.print(f"[yellow]{warning}[/yellow]")
    console.print(
        f"{output}: {outcome.frames} frames, noise {outcome.noise_sigma:.4f}, "
        f"residual {outcome.residual_before:.4f} -> {outcome.residual:.4f}",
        highlight=False,
    )
    if found := outcome.estimated:
        steps = json.dumps([step.model_dump(exclude_none=True) for step in found.degradation])
        console.print(f"estimated {steps}, confidence {found.confidence:.2f}", highlight=False)
    if near := outcome.compared:
        console.print(_compared(near), highlight=False)


def _stated(degradation: str | None, **given: Any) -> Restoration:
    listed = [] if degradation is None else json.loads(degradation)
    return Restoration.model_validate(given | {"degradation": listed})


def _compared(near: dict[str, float]) -> str:
    """A line for each measure that was taken, before and after."""
    told = {"psnr": ("PSNR", 2, " dB"), "ssim": ("SSIM", 4, ""), "vmaf": ("VMAF", 1, "")}
    told |= {"warp_error": ("warp error", 4, ""), "lpips": ("LPIPS", 4, ""), "fvd": ("FVD", 1, "")}
    lines = [
        f"{name} {near[f'{measure}_before']:.{digits}f} -> {near[measure]:.{digits}f}{unit}"
        for measure, (name, digits, unit) in told.items()
        if measure in near
    ]
    if "warp_error_truth" in near:
        lines.append(f"warp error of the clean clip {near['warp_error_truth']:.4f}")
    return "\n".join(lines)


def _mask_extent(path: Path | None) -> Extent | None:
    if path is None:
        return None
    from worker.video import iter_mask

    frames = [frame.shape for frame in iter_mask(path)]
    return Extent(frames[0][-1], frames[0][-2], len(frames))


def _told(error: Exception) -> str:
    """In a line for each thing that is wrong, its field first."""
    if not isinstance(error, ValidationError):
        return str(error)
    places = [(field_of(one["loc"]), reason_of(one["msg"])) for one in error.errors()]
    return "\n".join(f"{field}: {message}" if field else message for field, message in places)


class _Bar(Progress):
    """Follows a clip on the terminal."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("restoring"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
        )

    def check(self) -> None:
        """Nothing stops it but Ctrl-C."""

    def measured(self, stage: str, frames: int) -> None:
        """Only the solver moves the bar."""

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        """The steps of sampler and inversion for every frame."""
        self._line = self.add_task("restoring", total=frames * (steps + inversions))

    def resumed(self, frames: int, inversions: int, steps: int, spent: dict[str, float]) -> None:
        """What is restored from a file begins anew each time."""

    def spent(self) -> dict[str, float]:
        """Not kept."""
        return {}

    def watch(self, stage: "Stage", frames: int, seconds: float | None = None) -> None:
        """The solver's callback."""
        if stage in ("invert", "denoise"):
            self.advance(self._line, frames)


if __name__ == "__main__":
    app(prog_name="vxl restore")
