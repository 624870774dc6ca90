"""Tiny pipelines with random weights, each shaped as one of the published ones, as diffusers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tiny_text import config, tokenizer

TEXT_WIDTH, POOLED_WIDTH = 32, 16

SHARED: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 4,
}
SDXL: dict[str, Any] = SHARED | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED_WIDTH,
}
SD: dict[str, Any] = SHARED | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
UNETS: dict[str, dict[str, Any]] = {
    "sdxl": SDXL,
    # SSD-1B and Vega: another depth for each attention of a block, or no middle block.
    "ssd-1b": SDXL
    | {
        "transformer_layers_per_block": ((1,), (2,)),
        "reverse_transformer_layers_per_block": ((2, 1), (1, 1)),
        "mid_block_type": None,
    },
    # One text encoder, and a score where SDXL is told a second size.
    "sdxl_refiner": SDXL | {"projection_class_embeddings_input_dim": 5 * 8 + POOLED_WIDTH},
    "sd15": SD | {"attention_head_dim": 4},
    "sd2": SD | {"attention_head_dim": (2, 4), "use_linear_projection": True},
}
TEXTS = {
    "sdxl": ("text_encoder", "text_encoder_2"),
    "ssd-1b": ("text_encoder", "text_encoder_2"),
    "sdxl_refiner": ("text_encoder_2",),
    "sd15": ("text_encoder",),
    "sd2": ("text_encoder",),
}


def autoencoder(kind: str, scaling: float = 0.13025) -> AutoencoderKL | AutoencoderTiny:
    """SDXL's own kind, or TAESD's; factor 8, four latent channels."""
    if kind == "AutoencoderTiny":
        widths: dict[str, Any] = {f"{side}_block_out_channels": (8,) * 4 for side in ("encoder", "decoder")}
        return AutoencoderTiny(num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, **widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        scaling_factor=scaling,
    )


def save_pipeline(
    path: Path, shape: str, vae: str = "AutoencoderKL", unet: dict[str, Any] | None = None, **scheduler: Any
) -> Path:
    """Write a pipeline, the same one every time. unet: changes to its config. scheduler: likewise."""
    torch.manual_seed(0)
    UNet2DConditionModel(**UNETS[shape] | (unet or {})).save_pretrained(path / "unet")
    autoencoder(vae).save_pretrained(path / "vae")
    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    DDIMScheduler(**table | scheduler).save_pretrained(path / "scheduler")
    words, names = tokenizer(), TEXTS[shape]
    for name in names:
        kind = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
        kind(config(TEXT_WIDTH // len(names), POOLED_WIDTH, len(words))).save_pretrained(path / name)
        words.save_pretrained(path / name.replace("text_encoder", "tokenizer"))
    (path / "model_index.json").write_text(json.dumps(_index(names, vae)))
    return path


def _index(names: tuple[str, ...], vae: str) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if "text_encoder_2" in names else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae],
    }
    if names == ("text_encoder_2",):
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    for name in names:
        kind = "CLIPTextModelWithProjection" if name == "text_encoder_2" else "CLIPTextModel"
        index |= {
            name: ["transformers", kind],
            name.replace("text_encoder", "tokenizer"): ["transformers", "CLIPTokenizer"],
        }
    return index
