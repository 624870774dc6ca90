"""What a pipeline is, read off its configs before any of its weights: which backbone, what it predicts, what is wrong.

Known are latent diffusion models with a UNet2DConditionModel: SDXL, its refiner and what was distilled from it (blocks
left out, other schedulers), Stable Diffusion 1 and 2.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import Tensor

Kind = Literal["sdxl", "sdxl_refiner", "sd1", "sd2"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
# What the UNet is told beside text and time: sizes and crop of the picture; the refiner: its size, crop and a score.
TIME_IDS: dict[int, Kind] = {6: "sdxl", 5: "sdxl_refiner"}
CLIP_WIDTH = 512  # of transformers' CLIP, where a config leaves hidden_size or projection_dim out

Config = dict[str, Any]


class BadModel(ValueError):
    """A model that cannot be used, and each reason why."""

    def __init__(self, model: str, faults: list[str]) -> None:
        super().__init__(f"{model} cannot be used: " + "; ".join(faults))
        self.faults = faults


def noise_of(out: Tensor, z: Tensor, prediction: Prediction, signal: float, noise: float) -> Tensor:
    """The noise eps in z = signal z0 + noise eps, whatever it is that the UNet predicts.

    signal = sqrt(abar_t), noise = sqrt(1 - abar_t). v = signal eps - noise z0 (Salimans and Ho 2022, appendix D), so
    that eps = signal v + noise z.
    """
    match prediction:
        case "epsilon":
            return out
        case "v_prediction":
            return signal * out + noise * z
        case "sample":
            return (z - signal * out) / noise


@dataclass(frozen=True)
class Backbone:
    """The configs of a pipeline and its autoencoder, {} for those it lacks; `faults` says what is wrong with them.

    autoencoder: the directory of `vae`, the pipeline's or another. text: the configs of the text encoders by the names
    of their directories, in their order.
    """

    directory: Path
    autoencoder: Path
    variant: str | None
    unet: Config
    vae: Config
    scheduler: Config
    text: dict[str, Config]

    @property
    def kind(self) -> Kind:
        """Of a pipeline without faults."""
        if self.unet.get("addition_embed_type") is None:
            return "sd2" if self.unet.get("use_linear_projection") else "sd1"
        return TIME_IDS[self._time_ids]

    @property
    def prediction(self) -> Prediction:
        return cast(Prediction, self.scheduler.get("prediction_type", "epsilon"))

    @property
    def _time_ids(self) -> int:
        pooled = self.text.get("text_encoder_2", {}).get("projection_dim", CLIP_WIDTH)
        told = self.unet.get("projection_class_embeddings_input_dim") or 0
        return int(told - pooled) // int(self.unet.get("addition_time_embed_dim") or 1)

    def faults(self) -> list[str]:
        """What keeps the solver from using it, a line each; empty where nothing is known to."""
        return [*self._missing(), *self._wrong_classes(), *self._wrong_channels(), *self._wrong_text()]

    def _missing(self) -> Iterator[str]:
        if not (self.directory / "model_index.json").is_file():
            yield "model_index.json is missing: not a pipeline in diffusers format"
        elif not self.text:
            yield "it has no text encoder"
        if not self.scheduler:
            yield "scheduler/scheduler_config.json is missing or no JSON"
        own = self.autoencoder == self.directory / "vae"
        parts = {"unet": (self.directory / "unet", self.unet), "vae": (self.autoencoder, self.vae)}
        parts |= {name: (self.directory / name, config) for name, config in self.text.items()}
        for name, (path, config) in parts.items():
            if not config:
                yield f"{name}/config.json is missing or no JSON"
            elif fault := weights_fault(path, self.variant if own or name != "vae" else None):
                yield f"{name}: {fault}"
        for name in self.text:
            words = self.directory / name.replace("text_encoder", "tokenizer")
            if not any((words / file).is_file() for file in ("tokenizer.json", "vocab.json")):
                yield f"{words.name}: tokenizer.json or vocab.json is missing"

    def _wrong_classes(self) -> Iterator[str]:
        unet, vae = self.unet.get("_class_name"), self.vae.get("_class_name")
        if self.unet and unet != "UNet2DConditionModel":
            yield f"unet is of class {unet}; the solver takes UNet2DConditionModel"
        if self.vae and vae not in AUTOENCODERS:
            yield f"vae is of class {vae}; the solver takes {', '.join(AUTOENCODERS)}"
        sampler = str(self.scheduler.get("_class_name"))
        if sampler.startswith(("EDM", "Flow")):
            yield f"the scheduler is {sampler}, which has no table of abar: its noise is of another kind"
        elif self.scheduler and self.prediction not in get_args(Prediction):
            yield f"it predicts {self.prediction}; the solver takes {', '.join(get_args(Prediction))}"

    def _wrong_channels(self) -> Iterator[str]:
        taken, latent = self.unet.get("in_channels", 4), self.vae.get("latent_channels", 4)
        if self.unet and self.vae and taken != latent:
            more = " (an inpainting or editing UNet also takes a picture: use the plain one)" if taken > latent else ""
            yield f"the UNet takes {taken} channels, the autoencoder's latents have {latent}{more}"
        elif self.unet and self.unet.get("out_channels", 4) != taken:
            yield f"the UNet gives {self.unet['out_channels']} channels for {taken}: its noise is no plain estimate"
        if self.vae and self.vae.get("in_channels", 3) != 3:
            yield f"the autoencoder takes {self.vae['in_channels']} channels; pictures have 3"
        if self.vae.get("latents_mean") or self.vae.get("latents_std"):
            yield "the autoencoder's latents have a mean and deviation for each channel, which the solver does not know"

    def _wrong_text(self) -> Iterator[str]:
        """What the UNet is conditioned on."""
        if not self.unet or not self.text or not all(self.text.values()):
            return
        told = self.unet.get("addition_embed_type")
        if told not in (None, "text_time"):
            yield f"the UNet is conditioned on {told!r} besides time and text; known is text_time, as SDXL's"
        for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
            if self.unet.get(name) is not None:
                yield f"the UNet has {name} = {self.unet[name]!r}, a condition that the solver cannot give"
        if told == "text_time":
            if "text_encoder_2" not in self.text:
                yield "the UNet takes pooled text, as SDXL's, but there is no text_encoder_2"
            elif self._time_ids not in TIME_IDS:
                yield f"the UNet is told {self._time_ids} numbers beside time and text; SDXL's is told 6, its refiner 5"
        width = sum(config.get("hidden_size", CLIP_WIDTH) for config in self.text.values())
        wanted = self.unet.get("cross_attention_dim", 1280)
        if isinstance(wanted, int) and wanted != width:
            yield f"the text encoders give states {width} wide, the UNet takes {wanted}"


def read(directory: Path, autoencoder: Path | None = None, variant: str | None = None) -> Backbone:
    """The configs of a pipeline in diffusers format. autoencoder: another directory with one."""
    vae = autoencoder or directory / "vae"
    index = _json(directory / "model_index.json")
    names = [name for name in ("text_encoder", "text_encoder_2") if (index.get(name) or [None])[0]]
    return Backbone(
        directory,
        vae,
        variant,
        unet=_json(directory / "unet" / "config.json"),
        vae=_json(vae / "config.json"),
        scheduler=_json(directory / "scheduler" / "scheduler_config.json"),
        text={name: _json(directory / name / "config.json") for name in names},
    )


def weights_fault(part: Path, variant: str | None) -> str | None:
    """Why a part's weights cannot be read; None where they can. Only safetensors are: other formats may run code."""
    weights = [file.name for file in part.glob("*.safetensors")]
    if not weights:
        pickled = sorted(file.name for file in part.glob("*.bin"))
        if pickled:
            return f"{pickled[0]} is no safetensors file, and nothing else is read: convert it first"
        return "no safetensors file"
    plain = [name for name in weights if name.count(".") == 1]
    if variant is None and not plain:
        return f"only files of a variant ({sorted(weights)[0]}): set VXL_VARIANT"
    if variant is not None and not any(f".{variant}." in name or f".{variant}-" in name for name in weights):
        return f"no file of the variant {variant}"
    return None


def _json(path: Path) -> Config:
    """{} where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
