"""`vxl`, the command line. What needs torch is another program, so that `vxl api` runs where there is no torch."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from app.gpus import run as run_gpus
from app.logging import configure
from app.serve import serve as serve_all
from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Restore degraded video with VISION-XL. Settings are environment variables, VXL_...",
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process with `python -m module`."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@app.command()
def serve() -> None:
    """Run the whole service on this machine: Redis, API and one worker, until Ctrl-C."""
    settings = Settings()
    configure(settings)
    raise typer.Exit(serve_all(settings))


@app.command()
def api() -> None:
    """Run the API alone; VXL_REDIS_URL names its Redis."""
    become("app.main")


@app.command()
def worker(
    gpus: Annotated[str | None, typer.Option(help="`all`, or numbers (0,2): a worker for each GPU, on its own")] = None,
) -> None:
    """Run one worker, or one for each GPU; VXL_REDIS_URL names their Redis."""
    if gpus is None:
        become("worker.main")
    settings = Settings()
    configure(settings)
    raise typer.Exit(run_gpus(gpus, settings))


@app.command(context_settings=PASS_ON)
def demo(context: typer.Context) -> None:
    """Degrade the sample clip, have a service started for it restore it over HTTP, and compare."""
    become("worker.demo", *context.args)


@app.command(context_settings=PASS_ON)
def restore(context: typer.Context) -> None:
    """Restore a file in this process, without a service: vxl restore in.mp4 -o out.mp4 --task deblur."""
    become("worker.restore_file", *context.args)


@app.command()
def models(
    url: Annotated[str | None, typer.Option(help="of the service; VXL_HOST and VXL_PORT if not given")] = None,
) -> None:
    """Say which models the workers of a running service hold, or what the settings would load where none runs."""
    from app.show import show_models  # with all of the API's models: the other commands start without

    settings = Settings()
    raise typer.Exit(show_models((url or f"http://{settings.host}:{settings.port}").rstrip("/"), settings))


@app.command()
def workers(
    url: Annotated[str | None, typer.Option(help="of the service; VXL_HOST and VXL_PORT if not given")] = None,
) -> None:
    """Say what the workers of a running service do, and what ails those that do nothing."""
    from app.show import show_workers

    settings = Settings()
    raise typer.Exit(show_workers((url or f"http://{settings.host}:{settings.port}").rstrip("/")))


@app.command("check-model", context_settings=PASS_ON)
def check_model(context: typer.Context) -> None:
    """Load a model, say how well it keeps a clip and tells noise, or what is wrong with it: vxl check-model DIR."""
    become("worker.check_model", *context.args)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
