"""`vxl models`: which models the workers of a running service hold, or what the settings would have them load."""

import httpx
from rich.console import Console
from rich.table import Table

from app.api.system import Model, Models
from app.settings import Settings

SECONDS = 5


def show_models(url: str, settings: Settings) -> int:
    """Ask the service at `url` and print a table; the exit status is 1 where it answers with an error."""
    console = Console()
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=SECONDS, trust_env=False)
    except httpx.TransportError:
        console.print(f"No service answers at {url}. A worker with these settings would load:", highlight=False)
        console.print(_settings(settings))
        return 0
    if answer.is_error:
        console.print(f"[red]{url} answers with {answer.status_code}[/red]: {answer.text[:300]}", highlight=False)
        return 1
    found = Models.model_validate_json(answer.content).data
    console.print(_held(found) if found else f"No worker of {url} is live.", highlight=False)
    return 0


def _held(models: list[Model]) -> Table:
    table = Table("model", "kind", "predicts", "autoencoder", "parameters", "dtype", "weights", "live workers")
    for model in models:
        card = model.card
        if card is None:
            told = ["not loaded", *[""] * 5]
        else:
            total = (card.unet_parameters + card.autoencoder_parameters) / 1e6
            latents = f"{card.autoencoder} {card.latent_channels} x 1/{card.factor}"
            told = [card.kind, card.prediction_type, latents, f"{total:.1f} M", card.dtype, card.weights_sha256[:12]]
        table.add_row(model.id, *told, str(model.live_workers))
    return table


def _settings(settings: Settings) -> Table:
    table = Table("setting", "value")
    for name in ("model", "revision", "variant", "vae", "vae_revision", "dtype", "device"):
        table.add_row(f"VXL_{name.upper()}", str(getattr(settings, name) or ""))
    return table
