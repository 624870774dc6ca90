"""The image prior: a diffusers pipeline with a UNet and an autoencoder. This and text.py alone import diffusers."""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import EncoderOutput
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from torch import Tensor
from torch.nn.functional import pad
from transformers.utils import logging as transformers_logging

from worker.solver.backbone import BadModel, Kind, Prediction, noise_of, read
from worker.solver.offload import OneAtATime
from worker.solver.text import Prompt, encode_prompt

# A service has no terminal to draw bars on.
diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()

AUTOENCODERS = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny, AutoencoderDC)}
PARTS = ["*.json", "*.safetensors"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
AESTHETIC_SCORE = 6.0  # what diffusers tells SDXL's refiner of a picture that is to be good
LEAST_ABAR = 2.0**-24  # where a schedule ends in pure noise: diffusers' own, so that nothing is divided by zero
BUNDLED = Path(__file__).resolve().parent.parent / "models" / "tiny"


@dataclass(frozen=True)
class DiffusersPrior:
    """A latent diffusion model as the loop's `Prior`: any kind that worker/solver/backbone.py knows.

    abar: (1000,) float64, above 0. weights_sha256: of the weight files of UNet and autoencoder, in the order of their
    names. device: where it computes. prediction: what the UNet gives; `predict_noise` makes noise of it. offload: what
    brings the network that is needed to the device; None: both lie there.
    guidance: CFG++ weight (Chung et al. 2024); without a `prompt` only the unconditional branch runs.
    original_size: height and width that the micro-conditioning names as the picture's; None: those of the frames.
    """

    directory: Path
    variant: str | None
    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny | AutoencoderDC
    abar: Tensor
    weights_sha256: str
    empty: Prompt
    device: torch.device
    kind: Kind = "sdxl"
    prediction: Prediction = "epsilon"
    prompt: Prompt | None = None
    guidance: float = 0.6
    original_size: tuple[int, int] | None = None
    offload: OneAtATime | None = None

    @property
    def bundled(self) -> bool:
        """Whether this is the checkpoint that comes with the package."""
        return self.directory == BUNDLED

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    @property
    def factor(self) -> int:
        """Pixels per latent, along one axis."""
        config = self.vae.config
        levels = config.get("block_out_channels") or config.encoder_block_out_channels
        return int(2 ** (len(levels) - 1))

    @property
    def multiple(self) -> int:
        """Frames are padded to a multiple of this many pixels: of autoencoder and UNet together."""
        return self.factor << (len(self.unet.config.block_out_channels) - 1)

    def prompted(self, text: str, guidance: float) -> "DiffusersPrior":
        """The same prior with another prompt; loads the text encoders where the prompt is new, and drops them again."""
        prompt = encode_prompt(self.directory, self.variant, text, self.device, self.unet.dtype) if text else None
        return replace(self, prompt=prompt, guidance=guidance)

    def as_published(self) -> "DiffusersPrior":
        """The same prior, told as by the published solver that pictures were of the size the UNet was made for."""
        side = int(self.unet.config.sample_size) * self.factor
        return replace(self, original_size=(side, side))

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32, scaled; the mode of the posterior, as samples flicker."""
        self._need(self.vae)
        h, w = x.shape[-2:]
        padded = mirror(x, -h % self.multiple, -w % self.multiple)
        out = self.vae.encode(padded.to(self.vae.dtype).contiguous(memory_format=torch.channels_last))
        z = posterior_mode(out)
        scaled: Tensor = (at_least_float32(z) - self._shift) * float(self.vae.config.scaling_factor)
        return scaled

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W) float32."""
        self._need(self.vae)
        z = z / float(self.vae.config.scaling_factor) + self._shift
        x: Tensor = self.vae.decode(z.to(self.vae.dtype).contiguous(memory_format=torch.channels_last)).sample
        return at_least_float32(x[..., : size[0], : size[1]])

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """eps_theta(z, t) guided and unguided, (B, C, h, w) float32 each."""
        unguided = self._unet(z, t, self.empty)
        if self.prompt is None:
            return unguided, unguided
        return unguided + self.guidance * (self._unet(z, t, self.prompt) - unguided), unguided

    def _need(self, network: torch.nn.Module) -> None:
        if self.offload:
            self.offload.need(network)

    def as_noise(self, out: Tensor, z: Tensor, t: int) -> Tensor:
        """The noise in z at timestep t, of what the UNet gave for it."""
        abar = float(self.abar[t])
        return noise_of(out, z, self.prediction, abar**0.5, (1 - abar) ** 0.5)

    def _unet(self, z: Tensor, t: int, prompt: Prompt) -> Tensor:
        self._need(self.unet)
        count = len(z)
        beside = None
        if prompt.pooled is not None:
            time_ids = _row(tuple(self._time_ids(z)), self.unet.dtype, self.device)
            beside = {"text_embeds": prompt.pooled.expand(count, -1), "time_ids": time_ids.expand(count, -1)}
        out = self.unet(
            z.to(self.unet.dtype).contiguous(memory_format=torch.channels_last),
            torch.full((), t, device=self.device),  # a number would be compiled for each of its values
            encoder_hidden_states=prompt.states.expand(count, -1, -1),
            added_cond_kwargs=beside,
        )
        return self.as_noise(at_least_float32(out.sample), z, t)

    def _time_ids(self, z: Tensor) -> list[float]:
        """SDXL's micro-conditioning (Podell et al. 2023, 2.2): a picture of the frames' size, not cropped."""
        size = (z.shape[-2] * self.factor, z.shape[-1] * self.factor)
        last = (AESTHETIC_SCORE,) if self.kind == "sdxl_refiner" else size
        return [*(self.original_size or size), 0, 0, *last]


def load_prior(
    model: str = "bundled",
    *,
    vae: str | None = None,
    revision: str | None = None,
    vae_revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    offload: bool = False,
) -> DiffusersPrior:
    """Load a pipeline: `bundled`, a local directory in diffusers format, or a hub id (with a pinned revision).

    vae: another autoencoder, likewise. variant: of the file names, as in `model.fp16.safetensors`. Only safetensors are
    read. offload: keep UNet and autoencoder in the host's memory, but for the one that is needed. Raises BadModel, a
    ValueError, where files are missing or the model is of a kind that the solver cannot use, OSError where it cannot be
    had.
    """
    directory = _fetch(model, revision, variant)
    backbone = read(directory, _fetch_autoencoder(vae, vae_revision) if vae else None, variant)
    if faults := backbone.faults():
        raise BadModel(model, faults)
    unet = _load(UNet2DConditionModel, directory / "unet", variant, dtype)
    kind = AUTOENCODERS[backbone.vae["_class_name"]]
    autoencoder = _load(kind, backbone.autoencoder, None if vae else variant, dtype)
    if dtype == torch.float16 and autoencoder.config.get("force_upcast"):
        autoencoder.float()  # SDXL's own autoencoder overflows in half precision
    place = torch.device(device)
    for part in (unet, autoencoder):
        part.to("cpu" if offload else place, memory_format=torch.channels_last).eval().requires_grad_(False)
    abar = DDIMScheduler.from_config(backbone.scheduler).alphas_cumprod.double().clamp(min=LEAST_ABAR)
    return DiffusersPrior(
        directory,
        variant,
        unet,
        autoencoder,
        abar,
        _digest([directory / "unet", backbone.autoencoder]),
        encode_prompt(directory, variant, "", place, dtype),
        place,
        backbone.kind,
        backbone.prediction,
        offload=OneAtATime([unet, autoencoder], place) if offload else None,
    )


def _load(kind: type[Any], path: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """A part of the pipeline with all of its weights: diffusers would go on with random ones in place of some."""
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        part, told = kind.from_pretrained(str(path), variant=variant, dtype=dtype, **options)
    except ValueError as error:  # tensors of another shape, which diffusers tells in a paragraph
        raise BadModel(str(path), [str(error).split(". ")[0]]) from error
    if missing := told["missing_keys"]:
        raise BadModel(str(path), [f"{len(missing)} tensors are not in its files, {sorted(missing)[0]} for one"])
    return part


def _fetch(model: str, revision: str | None, variant: str | None) -> Path:
    """The directory of the pipeline, downloaded first where `model` is a hub id."""
    if model == "bundled":
        return BUNDLED
    if Path(model).is_dir():
        return Path(model).resolve()
    if not HUB_ID.fullmatch(model):
        raise BadModel(model, ["there is no such directory"])
    return Path(DiffusionPipeline.download(model, revision=revision, variant=variant, use_safetensors=True))


def _fetch_autoencoder(vae: str, revision: str | None) -> Path:
    """The same for an autoencoder by itself."""
    if Path(vae).is_dir():
        return Path(vae).resolve()
    if not HUB_ID.fullmatch(vae):
        raise BadModel(vae, ["there is no such directory"])
    return Path(snapshot_download(vae, revision=revision, allow_patterns=PARTS))


def _digest(directories: list[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(file for directory in directories for file in directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def posterior_mode(encoded: BaseOutput) -> Tensor:
    """The latents (B, C, h, w), under the name that each kind of autoencoder has for them."""
    z: Tensor
    match encoded:
        case AutoencoderTinyOutput():
            z = encoded.latents
        case EncoderOutput():
            z = encoded.latent
        case _:
            z = encoded.latent_dist.mode()
    return z


@lru_cache(maxsize=64)
def _row(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, N)."""
    return torch.tensor([numbers], dtype=dtype, device=device)


def at_least_float32(x: Tensor) -> Tensor:
    """The loop's own arithmetic is never done in half precision; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mirror(x: Tensor, below: int, right: int) -> Tensor:
    """Pad frames (B, C, H, W) by reflection, `below` rows and `right` columns, however small they are."""
    if 1 in x.shape[-2:]:
        return pad(x, (0, right, 0, below), mode="replicate")
    while below or right:
        h, w = min(below, x.shape[-2] - 1), min(right, x.shape[-1] - 1)
        x = pad(x, (0, w, 0, h), mode="reflect")
        below, right = below - h, right - w
    return x
