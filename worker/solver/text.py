"""What a prompt is to the UNet: a pipeline's text encoders, loaded for the moment it takes to run them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from worker.solver.backbone import read


@dataclass(frozen=True)
class Prompt:
    """Text states (1, 77, D) of a prompt and, of SDXL, pooled text (1, P)."""

    states: Tensor
    pooled: Tensor | None = None


@lru_cache(maxsize=64)
def encode_prompt(
    directory: Path,
    variant: str | None,
    text: str,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
    dtype: torch.dtype = torch.float32,
) -> Prompt:
    """Load a pipeline's text encoders, run them once and let them go."""
    pooled = "text_encoder_2" in read(directory).text
    kind = StableDiffusionXLPipeline if pooled else StableDiffusionPipeline
    others = {} if pooled else {"safety_checker": None, "requires_safety_checker": False}
    pipeline = kind.from_pretrained(
        directory,
        unet=None,
        vae=None,
        scheduler=None,
        feature_extractor=None,
        image_encoder=None,
        variant=variant,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **others,
    ).to(device)
    with torch.no_grad():
        if not pooled:
            states, _ = pipeline.encode_prompt(text, device, 1, do_classifier_free_guidance=False)
            return Prompt(states.to(dtype))
        states, _, vector, _ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    return Prompt(states.to(dtype), vector.to(dtype))
