"""Every setting of the service: an environment variable with the prefix VXL_."""

from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

QUEUES = ("high", "normal", "low")  # RQ queues, in the order in which workers empty them
# Bytes of a GPU that a job may take: 9 and 13 GB, of which half of one is CUDA's own.
MEMORY_BUDGETS = {"low": 8_500_000_000, "normal": 12_500_000_000}
API_STOP_SECONDS = 20  # what the API grants requests under way, once it is to stop


class Settings(BaseSettings):
    """Settings of API and worker; README lists them in one table."""

    model_config = SettingsConfigDict(env_prefix="VXL_", extra="ignore", frozen=True)

    # Where it listens and keeps things
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    api_metrics_port: int = Field(9101, ge=0, le=65535, description="0 switches the API's metrics server off")
    data_dir: Path = Path("data")
    store_url: str | None = None
    redis_url: str | None = None

    # The prior
    model: str = "bundled"
    revision: str | None = None
    variant: str | None = None
    vae: str | None = None
    vae_revision: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = "auto"
    memory: Literal["low", "normal", "all"] = Field(
        "normal", description="of a GPU: 9 GB, with UNet and autoencoder there in turns; 13 GB; or all that is free"
    )
    micro_batch: int | None = Field(None, ge=1, description="None: as many frames as memory holds")
    compile_sizes: str = Field("", pattern=r"^(\d+x\d+(,\d+x\d+)*)?$", description="width x height of frames")
    cache_dir: Path | None = None
    part_frames: int = Field(25, ge=1, description="solved together; memory grows with it")
    lpips: Path | None = Field(None, description="TorchScript of the network, for simulations")
    fvd: Path | None = Field(None, description="TorchScript of the network, for simulations")
    tile_pixels: int = Field(1024 * 1024, ge=512 * 512, description="larger frames go through the prior in tiles")

    # What a client may send
    max_upload_bytes: int = Field(2 << 30, ge=1)
    max_frames: int = Field(1000, ge=1)
    max_pixels: int = Field(4096 * 2304, ge=1, description="of one frame")
    min_side: int = Field(16, ge=1)
    max_queue: int = Field(1000, ge=1)
    tenant_header: str | None = Field(None, description="that names a request's tenant, set by what stands in front")
    tenant_jobs: int | None = Field(None, ge=1, description="of one tenant that run at a time; None: any number")
    probe_seconds: float = Field(60, gt=0)

    # The worker
    metrics_port: int = Field(9100, ge=0, le=65535, description="0 switches the worker's metrics server off")
    heartbeat_seconds: float = Field(5, gt=0)
    lease_seconds: float = Field(25, gt=0)
    cancel_grace_seconds: float = Field(15, ge=0)
    drain_seconds: float = Field(3, ge=0)
    stall_seconds: float = Field(300, gt=0, description="or ten times what the slowest piece of work took, if more")
    load_seconds: float = Field(900, gt=0, description="the same for a model that is being loaded")
    max_attempts: int = Field(3, ge=1)
    fanout_segments: int = Field(2, ge=1, description="runs of a clip beyond which idle workers help with it")

    # How long things are kept
    upload_ttl_seconds: int = Field(24 * 3600, ge=1)
    result_ttl_seconds: int = Field(7 * 24 * 3600, ge=1)

    log_format: Literal["console", "json"] = "console"

    @model_validator(mode="after")
    def _leases_are_renewed_in_time(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("VXL_LEASE_SECONDS has to be three times VXL_HEARTBEAT_SECONDS, or more")
        return self

    @property
    def sizes_to_compile(self) -> list[tuple[int, int]]:
        """(width, height) of the frames that the prior is compiled for before the worker is ready."""
        pairs = (size.split("x") for size in self.compile_sizes.split(",") if size)
        return [(int(width), int(height)) for width, height in pairs]

    @property
    def cache(self) -> Path:
        """A directory for what was compiled."""
        return self.cache_dir or self.data_dir / "cache"

    @property
    def memory_budget(self) -> int | None:
        """Bytes of a GPU that a job may take; None: all."""
        return MEMORY_BUDGETS.get(self.memory)

    def hides(self, owner: str | None, asking: str | None) -> bool:
        """Whether what one tenant owns is not for another that asks: where there are tenants, none sees another's."""
        return self.tenant_header is not None and owner != asking

    @cached_property
    def files(self) -> str:
        """Where clips and results lie: a directory, or s3://bucket/prefix."""
        return self.store_url or str(self.data_dir.resolve() / "files")

    @cached_property
    def scratch(self) -> Path:
        """A local directory for files in the making."""
        return self.data_dir.resolve() / "scratch"
