"""The card of a loaded prior."""

import torch

from app.card import ModelCard
from worker.solver.prior import DiffusersPrior


def card_of(prior: DiffusersPrior) -> ModelCard:
    """What is to be known of a prior, without asking it anything."""
    return ModelCard(
        kind=prior.kind,
        prediction_type=prior.prediction,
        autoencoder=type(prior.vae).__name__,
        latent_channels=prior.latent_channels,
        factor=prior.factor,
        dtype=_name(prior.unet.dtype),
        autoencoder_dtype=_name(prior.vae.dtype),
        unet_parameters=prior.unet.num_parameters(),
        autoencoder_parameters=prior.vae.num_parameters(),
        weights_sha256=prior.weights_sha256,
        bundled=prior.bundled,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
