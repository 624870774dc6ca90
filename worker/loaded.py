"""What the settings name, loaded: the prior, and measures that need a network."""

import torch

from app.settings import Settings
from worker.learned import Learned
from worker.solver.prior import DiffusersPrior, load_prior


def learned_of(settings: Settings, prior: DiffusersPrior) -> Learned:
    """The learned measures that the settings name, beside the prior; ValueError where a file will not do."""
    return Learned(settings.lpips, settings.fvd, prior.device)


def prior_of(settings: Settings) -> DiffusersPrior:
    """The prior that the settings name, on the device they name; ValueError where it cannot be used there."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"VXL_DEVICE is {device}, but torch finds no GPU")
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "float16"
    return load_prior(
        settings.model,
        vae=settings.vae,
        revision=settings.revision,
        vae_revision=settings.vae_revision,
        variant=settings.variant,
        dtype=getattr(torch, dtype),
        device=device,
        offload=settings.memory == "low" and device.startswith("cuda"),
    )
