"""Loading a pipeline: from a directory, with another autoencoder, and only from safetensors."""

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tiny_text import save_text_parts
from train_tiny_prior import build_scheduler
from worker.demo import SAMPLE
from worker.solver.prior import BUNDLED, DiffusersPrior, load_prior, mirror
from worker.solver.schedule import scaled_linear
from worker.video import read_clip


def kl_autoencoder(scaling: float, seed: int = 0) -> AutoencoderKL:
    """SDXL's kind, small, with random weights."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=scaling,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SDXL with random weights, as diffusers writes it: factor 8, four latent channels."""
    path = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    unet.save_pretrained(path / "unet")
    kl_autoencoder(0.13025).save_pretrained(path / "vae")
    build_scheduler("sdxl").save_pretrained(path / "scheduler")
    save_text_parts(path, 32, 16, autoencoder="AutoencoderKL")
    return path


def test_a_directory_in_diffusers_format_is_loaded(directory: Path) -> None:
    prior = load_prior(str(directory))
    assert (prior.latent_channels, prior.factor, prior.multiple) == (4, 8, 16)
    torch.testing.assert_close(prior.abar, scaled_linear(), rtol=1e-5, atol=0)
    x = torch.rand(2, 3, 33, 50) * 2 - 1
    with torch.inference_mode():
        z = prior.encode(x)
        eps, _ = prior.predict_noise(z, 41)
    assert z.shape == eps.shape == (2, 4, 6, 8)  # padded to 48 x 64
    assert prior.decode(z, (33, 50)).shape == x.shape


def test_the_mode_of_the_posterior_is_taken_and_scaled(directory: Path) -> None:
    prior, x = load_prior(str(directory)), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        mode = prior.vae.encode(x).latent_dist.mode()
        torch.testing.assert_close(prior.encode(x), 0.13025 * mode, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            prior.decode(prior.encode(x), (32, 32)), prior.vae.decode(mode).sample, rtol=1e-3, atol=1e-4
        )


def test_another_autoencoder_takes_the_place_of_the_pipelines(directory: Path, tmp_path: Path) -> None:
    kl_autoencoder(0.5, seed=1).save_pretrained(tmp_path)
    own, other = load_prior(str(directory)), load_prior(str(directory), vae=str(tmp_path))
    assert other.vae.config.scaling_factor == 0.5
    assert own.weights_sha256 != other.weights_sha256


def test_a_distilled_autoencoder_will_do(directory: Path, tmp_path: Path) -> None:
    """TAESD's kind, whose latents go by another name."""
    torch.manual_seed(0)
    widths: dict[str, Any] = {f"{side}_block_out_channels": (8,) * 4 for side in ("encoder", "decoder")}
    AutoencoderTiny(num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, **widths).save_pretrained(tmp_path)
    prior, x = load_prior(str(directory), vae=str(tmp_path)), torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        z = prior.encode(x)
        assert (prior.factor, z.shape) == (8, (1, 4, 4, 6))
        torch.testing.assert_close(z, prior.vae.encode(x).latents)
        assert prior.decode(z, (32, 48)).shape == x.shape


def test_nothing_but_safetensors_is_read(directory: Path, tmp_path: Path) -> None:
    kl_autoencoder(0.5).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="safetensors"):
        load_prior(str(directory), vae=str(tmp_path))


def test_text_encoders_are_let_go(directory: Path) -> None:
    prior = load_prior(str(directory)).prompted("a dog in the grass", 0.6)
    assert prior.prompt is not None
    assert prior.prompt.states.shape == (1, 77, 32)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) in (CLIPTextModel, CLIPTextModelWithProjection)]


def test_files_of_a_variant_are_found(directory: Path, tmp_path: Path) -> None:
    """As SDXL is published: only `model.fp16.safetensors` and its like."""
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    with pytest.raises(ValueError, match=r"only files of a variant .*: set VXL_VARIANT"):
        load_prior(str(tmp_path))
    with pytest.raises(ValueError, match="no file of the variant fp32"):
        load_prior(str(tmp_path), variant="fp32")
    plain, variant = load_prior(str(directory)), load_prior(str(tmp_path), variant="fp16")
    assert torch.equal(plain.empty.states, variant.empty.states)
    assert variant.prompted("a dog", 0.6).prompt is not None


def test_double_precision_stays_double(directory: Path) -> None:
    prior = load_prior(str(directory), dtype=torch.float64)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        z = prior.encode(x)
        assert z.dtype == prior.predict_noise(z, 41)[0].dtype == prior.decode(z, (32, 32)).dtype == torch.float64


@pytest.fixture(scope="module")
def bundled() -> DiffusersPrior:
    return load_prior("bundled")


def test_the_bundled_checkpoint_is_small_and_in_half_precision() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) < 12e6
    for part in ("unet", "vae"):
        weights = load_file(BUNDLED / part / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_the_bundled_autoencoder_keeps_a_real_clip(bundled: DiffusersPrior) -> None:
    """On the sample clip, which it never saw."""
    x = 2 * read_clip(SAMPLE, 3).frames.float() - 1
    with torch.inference_mode():
        back = bundled.decode(bundled.encode(x), (x.shape[-2], x.shape[-1])).clamp(-1, 1)
    psnr = -10 * torch.log10((back - x).square().mean() / 4)
    assert psnr > 30


def test_the_bundled_unet_tells_noise_from_a_real_clip(bundled: DiffusersPrior) -> None:
    """Its estimate of the noise is off by less than two thirds of it, where guessing zero is off by all of it."""
    x = 2 * read_clip(SAMPLE, 2).frames.float() - 1
    with torch.inference_mode():
        z = bundled.encode(x)
        eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        for t in (41, 121, 281):
            abar = float(bundled.abar[t])
            guess, _ = bundled.predict_noise(abar**0.5 * z + (1 - abar) ** 0.5 * eps, t)
            assert (guess - eps).square().mean() < 0.45


def test_mirror_pads_further_than_the_frame_is_wide() -> None:
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirror(x.expand(1, 1, 3, 3), 0, 4)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2]
