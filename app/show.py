"""`vxl models` and `vxl workers`: what a running service says of them, as tables."""

import httpx
from rich.console import Console
from rich.table import Table

from app.api.system import Model, Models
from app.records import now
from app.settings import Settings

SECONDS = 5


def show_models(url: str, settings: Settings) -> int:
    """The models that workers hold, or what the settings name where no service answers at `url`.

    The exit status is 1 where it answers with an error.
    """
    console = Console()
    found = _ask(url, console)
    if found is None:
        console.print("A worker with these settings would load:")
        console.print(_settings(settings))
        return 0
    if isinstance(found, Models):
        console.print(_held(found.data) if found.data else f"No worker of {url} is live.", highlight=False)
    return int(not isinstance(found, Models))


def show_workers(url: str) -> int:
    """The live workers, their states and why; the exit status is 1 where the service does not tell."""
    console = Console()
    found = _ask(url, console)
    if not isinstance(found, Models):
        return 1
    console.print(_employed(found.data) if found.data else f"No worker of {url} is live.", highlight=False)
    return 0


def _ask(url: str, console: Console) -> Models | httpx.Response | None:
    """What the service says of its models; its answer where that is an error; None where there is none."""
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=SECONDS, trust_env=False)
    except httpx.TransportError:
        console.print(f"No service answers at {url}.", highlight=False)
        return None
    if answer.is_error:
        console.print(f"[red]{url} answers with {answer.status_code}[/red]: {answer.text[:300]}", highlight=False)
        return answer
    return Models.model_validate_json(answer.content)


def _employed(models: list[Model]) -> Table:
    table = Table("worker", "state", "device", "model", "job", "last heard of")
    for worker in (worker for model in models for worker in model.workers):
        state = f"{worker.state}: {worker.reason}" if worker.reason else worker.state
        heard = f"{(now() - worker.heartbeat).total_seconds():.0f} s ago" if worker.heartbeat else ""
        table.add_row(worker.name, state, worker.device or "", worker.model, worker.job_id or "", heard)
    return table


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
