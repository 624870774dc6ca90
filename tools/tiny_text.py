"""The text side of tiny checkpoints: small CLIP encoders and a byte tokenizer, so that prompts take a real one's path.

They are not trained: the empty prompt is a fixed vector for the UNet, any other prompt a random direction.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token a byte."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as directory:
        vocabulary, merges = Path(directory, "vocab.json"), Path(directory, "merges.txt")
        vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), pad_token="<|endoftext|>", model_max_length=77)


def config(width: int, projection: int, vocabulary: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def save_text_parts(
    target: Path, width: int, pooled: int, like: str = "sdxl", autoencoder: str = "AutoencoderDC"
) -> None:
    """Write tokenizers, text encoders (their states together `width` wide) and model_index.json under `target`.

    like: `sdxl` has two encoders, of whose second the pooled text is used too; `sd2` has one.
    """
    words = tokenizer()
    torch.manual_seed(0)
    encoders: dict[str, CLIPTextModel | CLIPTextModelWithProjection] = {}
    if like == "sdxl":
        encoders["text_encoder"] = CLIPTextModel(config(width // 2, pooled, len(words)))
        encoders["text_encoder_2"] = CLIPTextModelWithProjection(config(width // 2, pooled, len(words)))
    else:
        encoders["text_encoder"] = CLIPTextModel(config(width, pooled, len(words)))
    index: dict[str, object] = {
        "_class_name": "StableDiffusionXLPipeline" if like == "sdxl" else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", autoencoder],
    }
    for name, encoder in encoders.items():
        words_of = name.replace("text_encoder", "tokenizer")
        encoder.half().save_pretrained(target / name, safe_serialization=True)
        words.save_pretrained(target / words_of)
        index |= {name: ["transformers", type(encoder).__name__], words_of: ["transformers", "CLIPTokenizer"]}
    if like == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
