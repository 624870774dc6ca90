"""What the service is made of, what it allows, and how it is."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from obstore.exceptions import BaseError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from redis.exceptions import RedisError

from app.api.bounded import MAX_BYTES, MAX_DEPTH
from app.api.jobs import WAIT_SECONDS
from app.api.wiring import Services, Wired
from app.card import ModelCard
from app.errors import AWAY_SECONDS, FieldError, Problem
from app.ids import new_id

router = APIRouter(tags=["system"])

# What a worker says of itself while it cannot take a job, nor will soon.
NOT_LIVE = frozenset({"draining", "unhealthy", "defunct"})
READY = frozenset({"idle", "busy"})  # its model is loaded


EXAMPLE: dict[str, Any] = {
    "data": [
        {
            "id": "stabilityai/stable-diffusion-xl-base-1.0",
            "live_workers": 1,
            "card": {
                "kind": "sdxl",
                "prediction_type": "epsilon",
                "autoencoder": "AutoencoderKL",
                "latent_channels": 4,
                "factor": 8,
                "dtype": "float16",
                "autoencoder_dtype": "float16",
                "unet_parameters": 2567463684,
                "autoencoder_parameters": 83653863,
                "weights_sha256": "6f9a0c7e51d3b8428e4d0b7f3a1c95d26f9a0c7e51d3b8428e4d0b7f3a1c95d2",
                "bundled": False,
            },
            "workers": [{"name": "gpu-1-4f2a9c", "state": "idle", "model": "...", "device": "NVIDIA H100 80GB HBM3"}],
        }
    ]
}


class WorkerInfo(BaseModel):
    """A worker, as it describes itself."""

    model_config = ConfigDict(extra="allow")

    name: str = "unknown"
    state: str = "unknown"
    reason: str | None = Field(None, description="why it is unhealthy or defunct")
    job_id: str | None = None
    heartbeat: datetime | None = None
    model: str = "unknown"
    device: str | None = None
    card: ModelCard | None = Field(None, exclude=True)

    @field_validator("card", mode="wrap")
    @classmethod
    def _known_card(cls, value: Any, known: ValidatorFunctionWrapHandler) -> Any:
        """A worker of another version may say other things of its model; it is a worker all the same."""
        try:
            return known(value)
        except ValidationError:
            return None


class Model(BaseModel):
    """A model, and the workers that hold it."""

    id: str
    live_workers: int = Field(description="those that take jobs, or are loading it")
    card: ModelCard | None = Field(description="null until it is loaded")
    workers: list[WorkerInfo]


class Models(BaseModel):
    """Models that differ in any part of their cards are told apart."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    data: list[Model]


class Limits(BaseModel):
    """What a client may send, and how long things are kept."""

    max_upload_bytes: int
    max_frames: int
    max_pixels: int = Field(description="of one frame, measured or restored")
    min_side: int
    max_queue: int
    max_json_bytes: int = MAX_BYTES
    max_json_depth: int = MAX_DEPTH
    max_wait_seconds: int = WAIT_SECONDS
    upload_ttl_seconds: int
    result_ttl_seconds: int


class Check(BaseModel):
    """One thing the service needs."""

    name: str
    ok: bool
    detail: str = ""


class Health(BaseModel):
    status: str = "ok"
    version: str
    checks: list[Check] = Field(default_factory=list)


@router.get("/v1/models")
def models(wired: Wired) -> Models:
    """The models that workers hold at this moment, and what each is."""
    held: dict[tuple[str, str], list[WorkerInfo]] = {}
    for worker in _workers(wired):
        if wired.settings.tenant_header:
            worker.job_id = None  # which may be another tenant's
        card = worker.card.model_dump_json() if worker.card else ""
        held.setdefault((worker.model, card), []).append(worker)
    return Models(data=[_model(workers) for _, workers in sorted(held.items())])


def _model(workers: list[WorkerInfo]) -> Model:
    live = sum(worker.state not in NOT_LIVE for worker in workers)
    return Model(id=workers[0].model, live_workers=live, card=workers[0].card, workers=workers)


@router.get("/v1/limits")
def limits(wired: Wired) -> Limits:
    """What this service allows."""
    return Limits.model_validate(wired.settings.model_dump(include=set(Limits.model_fields)))


@router.get("/livez")
async def livez(wired: Wired) -> Health:
    """The process answers; nothing else is asked."""
    return Health(version=wired.version)


@router.get("/startupz")
async def startupz(wired: Wired) -> Health:
    """The process has come up: a request is only ever answered after that."""
    return Health(version=wired.version)


def checked(wired: Wired) -> list[Check]:
    checks = [_check("redis", _redis, wired), _check("store", _store, wired), _check("worker", _worker, wired)]
    errors = [FieldError(field=check.name, code="not_ready", detail=check.detail) for check in checks if not check.ok]
    if errors:
        detail = "Not ready: " + ", ".join(error.field for error in errors) + "."
        raise Problem(503, "not_ready", detail, errors, retry_after=AWAY_SECONDS)
    return checks


@router.get("/readyz")
def readyz(checks: Annotated[list[Check], Depends(checked)], wired: Wired) -> Health:
    """All that a job needs is there: Redis, a store that takes files, a worker that holds its model."""
    return Health(version=wired.version, checks=checks)


def _check(name: str, probe: Callable[[Services], str], wired: Services) -> Check:
    try:
        return Check(name=name, ok=True, detail=probe(wired))
    except RedisError:
        return Check(name=name, ok=False, detail="Redis does not answer.")
    except (BaseError, OSError):
        return Check(name=name, ok=False, detail="The store takes no files.")
    except LookupError as missing:
        return Check(name=name, ok=False, detail=str(missing.args[0]))


def _redis(wired: Services) -> str:
    wired.records.redis.ping()
    return "answers"


def _store(wired: Services) -> str:
    key = f"health/{new_id('api')}"
    wired.store.put_bytes(key, b"ok")
    wired.store.delete(key)
    return "takes files"


def _worker(wired: Services) -> str:
    workers = _workers(wired)
    ready = sum(worker.state in READY for worker in workers)
    if not ready:
        told = [f"{worker.name} is {worker.state}: {worker.reason}." for worker in workers if worker.reason]
        if any(worker.state == "loading" for worker in workers):
            told.append("The workers are still loading their model.")
        raise LookupError(" ".join(told) or "No worker is live.")
    return f"{ready} ready"


def _workers(wired: Services) -> list[WorkerInfo]:
    return [WorkerInfo.model_validate(info) for info in wired.records.workers()]
