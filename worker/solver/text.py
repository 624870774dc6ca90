"""What a prompt is to the UNet: a pipeline's text encoders, loaded for the moment it takes to run them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

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
    options = {"variant": variant, "dtype": dtype, "use_safetensors": True, "local_files_only": True}
    with torch.no_grad():
        if "text_encoder_2" in read(directory).text:
            return _of_sdxl(directory, text, device, options)
        return _of_one_encoder(directory, text, device, options)


def _of_sdxl(directory: Path, text: str, device: torch.device, options: dict[str, Any]) -> Prompt:
    """Of two encoders, or of the second alone, as the refiner has it."""
    none = dict.fromkeys(("unet", "vae", "scheduler", "feature_extractor", "image_encoder"))
    pipeline = StableDiffusionXLPipeline.from_pretrained(directory, **none, **options).to(device)
    states, _, pooled, _ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    return Prompt(states.to(options["dtype"]), pooled.to(options["dtype"]))


def _of_one_encoder(directory: Path, text: str, device: torch.device, options: dict[str, Any]) -> Prompt:
    """Of Stable Diffusion 1 and 2: the states of the last layer, behind its norm."""
    words = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(directory / "text_encoder", **options).to(device)
    length = words.model_max_length
    ids = words(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return Prompt(encoder(ids.to(device)).last_hidden_state.to(options["dtype"]))
