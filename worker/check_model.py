"""Load a model and try it on the sample clip: `vxl check-model DIR`.

What the autoencoder loses no restoration gives back, and a UNet that tells no noise restores nothing.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from app.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from worker.solver.prior import DiffusersPrior

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console()
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
TIMESTEPS = (41, 201, 401)
TRAINED = 0.95  # of the error that a UNet makes which gives zero


@dataclass(frozen=True)
class NoiseError:
    """RMS of the predicted noise minus the true one, which is 1; of_zero: the same for a UNet that gives zero."""

    t: int
    rms: float
    of_zero: float


@app.command()
def check_model(
    model: Annotated[str, typer.Argument(help="a directory in diffusers format, a hub id, or `bundled`")],
    vae: Annotated[str | None, typer.Option(help="another autoencoder; VXL_VAE if not given")] = None,
    revision: Annotated[str | None, typer.Option()] = None,
    variant: Annotated[str | None, typer.Option(help="of the file names; VXL_VARIANT if not given")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="VXL_DTYPE if not given")] = None,
    device: Annotated[str | None, typer.Option(help="VXL_DEVICE if not given")] = None,
    frames: Annotated[int, typer.Option(min=1, max=25, help="of the sample clip")] = 2,
) -> None:
    """Load a model, say how well it keeps a clip and tells noise, or what is wrong with it."""
    given = {"model": model, "vae": vae, "revision": revision, "variant": variant, "dtype": dtype, "device": device}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        with console.status("loading the model"):
            prior, sample = _load(settings, frames)
    except (ValueError, OSError, RuntimeError) as error:
        for fault in getattr(error, "faults", [str(error)]):
            console.print(f"[red]bad[/red]  {escape(fault)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    _show_card(prior, model)
    faults, warnings = judge(prior, sample)
    for line in warnings:
        console.print(f"[yellow]warning[/yellow]  {line}", highlight=False, soft_wrap=True)
    for line in faults:
        console.print(f"[red]bad[/red]  {escape(line)}", highlight=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _load(settings: Settings, frames: int) -> "tuple[DiffusersPrior, Tensor]":
    """The prior, and frames of the sample clip in [0, 1]."""
    from worker.demo import SAMPLE
    from worker.loaded import prior_of
    from worker.video import read_clip

    prior = prior_of(settings)
    return prior, read_clip(SAMPLE, frames).frames.float().to(prior.device)


def _show_card(prior: "DiffusersPrior", model: str) -> None:
    from worker.card import card_of

    told: dict[str, Any] = {"model": model, "device": str(prior.device)} | card_of(prior).model_dump()
    for name, value in told.items():
        shown = f"{value:,}" if type(value) is int else str(value)
        console.print(f"{name.replace('_', ' '):<26}{shown}", highlight=False, soft_wrap=True)


def judge(prior: "DiffusersPrior", sample: "Tensor") -> tuple[list[str], list[str]]:
    """Print what was measured; what is wrong, and what looks so. sample: (T, 3, H, W) in [0, 1]."""
    import torch

    from worker.measures import psnr

    with torch.inference_mode():
        z, back = round_trip(prior, sample)
        if not back.isfinite().all():
            return [_overflow(prior)], []
        kept = sum(psnr(a[None], b[None]) for a, b in zip(back.clamp(0, 1), sample, strict=True)) / len(sample)
        console.print(
            f"encode-decode             {kept:.1f} dB; only the last data step can give back more", highlight=False
        )
        errors = noise_errors(prior, z)
    for error in errors:
        told = f"{error.rms:.3f}, where giving zero makes {error.of_zero:.3f}"
        console.print(f"{f'error of noise, t = {error.t}':<26}{told}", highlight=False)
    if not all(math.isfinite(error.rms) for error in errors):
        return ["the UNet gives values that are no numbers: try a wider VXL_DTYPE"], []
    warnings = []
    if kept < 20:
        warnings.append("the autoencoder hardly keeps a picture: not trained, or of another scale?")
    if sum(error.rms / error.of_zero for error in errors) / len(errors) > TRAINED:
        warnings.append("the UNet tells no noise: not trained, or made for other latents or another prediction type?")
    return [], warnings


def round_trip(prior: "DiffusersPrior", sample: "Tensor") -> "tuple[Tensor, Tensor]":
    """Latents (T, C, h, w) of frames (T, 3, H, W) in [0, 1], and the frames decoded from them; one by one."""
    import torch

    size = (sample.shape[-2], sample.shape[-1])
    z = torch.cat([prior.encode(2 * frame[None] - 1) for frame in sample])
    return z, torch.cat([(prior.decode(part[None], size) + 1) / 2 for part in z])


def noise_errors(prior: "DiffusersPrior", z: "Tensor") -> list[NoiseError]:
    """How far the noise that the UNet tells in the first of these latents is off, at each of TIMESTEPS."""
    import torch

    z0, errors = z[:1], []
    eps = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0)).to(z0)
    for t in TIMESTEPS:
        abar = float(prior.abar[t])
        noisy = abar**0.5 * z0 + (1 - abar) ** 0.5 * eps
        told, _ = prior.predict_noise(noisy, t)
        zero = prior.as_noise(torch.zeros_like(noisy), noisy, t)
        rms, of_zero = (
            float((guess - eps).square().mean().sqrt().nan_to_num(math.inf, math.inf)) for guess in (told, zero)
        )
        errors.append(NoiseError(t, rms, of_zero))
    return errors


def _overflow(prior: "DiffusersPrior") -> str:
    import torch

    wider = (
        "" if prior.vae.dtype == torch.float32 else ", set VXL_VAE to one made for half precision, or a wider VXL_DTYPE"
    )
    return f"the autoencoder gives values that are no numbers in {str(prior.vae.dtype).removeprefix('torch.')}{wider}"


if __name__ == "__main__":
    app(prog_name="vxl check-model")
