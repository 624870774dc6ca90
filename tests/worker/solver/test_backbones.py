"""Every kind of pipeline through the whole loop, and what is said of those that will not do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from full_size import on_meta, parameters
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from tests.worker.solver.pipelines import UNETS, autoencoder, save_pipeline
from worker.solve import pose, solve
from worker.solver.backbone import BadModel, read
from worker.solver.batches import MicroBatches
from worker.solver.prior import DiffusersPrior, load_prior
from worker.video import Beside

KINDS = {"sdxl": "sdxl", "ssd-1b": "sdxl", "sdxl_refiner": "sdxl_refiner", "sd15": "sd1", "sd2": "sd2"}
PREDICTION = {"sd2": "v_prediction"}


def restored(prior: DiffusersPrior, **settings: Any) -> Tensor:
    """Three blurred frames of 40x24, in two steps."""
    measured = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    wanted = SolverSettings(steps=20, tau=0.06, **settings)
    problem = pose(prior, measured, degradations_of(Task.deblur_plus), Beside(), 0.02, wanted)
    assert len(problem.sampling.schedule.timesteps) == 2
    return solve(prior, problem, wanted, batches=MicroBatches(2))


@pytest.mark.parametrize("vae", ["AutoencoderKL", "AutoencoderTiny"])
@pytest.mark.parametrize("shape", UNETS)
def test_every_backbone_goes_through_the_loop(shape: str, vae: str, tmp_path: Path) -> None:
    save_pipeline(tmp_path, shape, vae, prediction_type=PREDICTION.get(shape, "epsilon"))
    prior = load_prior(str(tmp_path))
    assert (prior.kind, prior.prediction) == (KINDS[shape], PREDICTION.get(shape, "epsilon"))
    assert type(prior.vae).__name__ == vae
    assert (prior.latent_channels, prior.factor, prior.multiple) == (4, 8, 16)
    plain, prompted = restored(prior), restored(prior, prompt="a dog in the grass")
    assert plain.shape == (3, 3, 24, 40)
    assert plain.isfinite().all() and prompted.isfinite().all()
    assert not torch.equal(plain, prompted)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_whatever_is_predicted_the_clean_latents_are_diffusers_own(prediction: str, tmp_path: Path) -> None:
    """z0 = (z - noise eps) / signal is what diffusers' scheduler makes of the same output of the UNet."""
    prior = load_prior(str(save_pipeline(tmp_path, "sd2", prediction_type=prediction)), dtype=torch.float64)
    scheduler = DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    scheduler.set_timesteps(1000)
    z = torch.randn(2, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for t in (1, 41, 281, 961):
            eps, _ = prior.predict_noise(z, t)
            out = prior.unet(z, t, encoder_hidden_states=prior.empty.states.expand(2, -1, -1)).sample
            abar = prior.abar[t]
            z0 = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
            torch.testing.assert_close(z0, scheduler.step(out, t, z).pred_original_sample, rtol=1e-5, atol=1e-5)


def test_a_schedule_that_ends_in_pure_noise_never_divides_by_zero(tmp_path: Path) -> None:
    save_pipeline(tmp_path, "sd2", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler").alphas_cumprod[-1] == 0
    prior = load_prior(str(tmp_path))
    assert 0 < prior.abar[-1] < 1e-7
    z = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        eps, _ = prior.predict_noise(z, 999)
    torch.testing.assert_close(eps, z, rtol=1e-3, atol=1e-3)  # all of it is noise
    assert restored(prior).isfinite().all()


def test_one_text_encoder_gives_what_diffusers_has_it_give(tmp_path: Path) -> None:
    prior = load_prior(str(save_pipeline(tmp_path, "sd15"))).prompted("a dog in the grass", 0.6)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, scheduler=None, safety_checker=None)
    with torch.no_grad():
        states, _ = pipeline.encode_prompt("a dog in the grass", "cpu", 1, do_classifier_free_guidance=False)
    assert prior.prompt is not None and prior.prompt.pooled is None
    torch.testing.assert_close(prior.prompt.states, states)


def test_the_refiner_is_told_a_score_in_place_of_a_second_size(tmp_path: Path) -> None:
    prior = load_prior(str(save_pipeline(tmp_path, "sdxl_refiner")))
    assert prior._time_ids(torch.zeros(1, 4, 3, 5)) == [24, 40, 0, 0, 6]


# --- those that will not do

Spoil = Callable[[Path], object]


def change(file: str, **values: Any) -> Spoil:
    """Sets values in a config."""

    def spoil(path: Path) -> None:
        config = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(config | values))

    return spoil


def remove(name: str) -> Spoil:
    def spoil(path: Path) -> None:
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()

    return spoil


def pickled(path: Path) -> None:
    (path / "unet" / "diffusion_pytorch_model.safetensors").rename(path / "unet" / "diffusion_pytorch_model.bin")


def without_a_tensor(path: Path) -> None:
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})


UNET, VAE = "unet/config.json", "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
BAD: dict[str, tuple[Spoil, str]] = {
    "no index": (remove("model_index.json"), "model_index.json is missing"),
    "no unet": (remove("unet"), "unet/config.json is missing"),
    "no vae": (remove("vae"), "vae/config.json is missing"),
    "no scheduler": (remove("scheduler"), "scheduler_config.json is missing"),
    "no second text encoder": (remove("text_encoder_2"), "text_encoder_2/config.json is missing"),
    "no tokenizer": (remove("tokenizer"), "tokenizer: tokenizer.json or vocab.json is missing"),
    "no weights": (remove("unet/diffusion_pytorch_model.safetensors"), "unet: no safetensors file"),
    "pickled": (pickled, "unet: diffusion_pytorch_model.bin is no safetensors file"),
    "a tensor short": (without_a_tensor, "conv_out.bias"),
    "another class": (change(UNET, _class_name="UNet3DConditionModel"), "unet is of class UNet3DConditionModel"),
    "another autoencoder": (change(VAE, _class_name="VQModel"), "vae is of class VQModel"),
    "other latents": (change(VAE, latent_channels=16), "the UNet takes 4 channels, the autoencoder's latents have 16"),
    "inpainting": (change(UNET, in_channels=9), "takes 9 channels, .* have 4 .an inpainting"),
    "two outputs": (change(UNET, out_channels=8), "gives 8 channels for 4"),
    "normalised latents": (change(VAE, latents_mean=[0.0] * 4), "a mean and deviation for each channel"),
    "another prediction": (change(SCHEDULER, prediction_type="flow"), "it predicts flow"),
    "flow matching": (change(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"), "has no table of abar"),
    "images as prompts": (change(UNET, addition_embed_type="image"), "conditioned on 'image'"),
    "classes": (change(UNET, num_class_embeds=1000), "num_class_embeds = 1000"),
    "other numbers": (change(UNET, projection_class_embeddings_input_dim=4 * 8 + 16), "told 4 numbers"),
    "other text": (change("text_encoder/config.json", hidden_size=64), "give states 80 wide, the UNet takes 32"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("good"), "sdxl")


@pytest.mark.parametrize("what", BAD)
def test_a_bad_model_is_refused_with_what_is_wrong(what: str, good: Path, tmp_path: Path) -> None:
    spoil, said = BAD[what]
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path)
    with pytest.raises(BadModel, match=said) as refused:
        load_prior(str(tmp_path))
    assert len(refused.value.faults) == 1


def test_all_that_is_wrong_is_said_at_once(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(UNET, in_channels=9)(tmp_path)
    change(SCHEDULER, prediction_type="flow")(tmp_path)
    assert len(read(tmp_path).faults()) == 2
    assert read(good).faults() == []


def test_weights_of_another_shape_are_refused(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(UNET, block_out_channels=[16, 16])(tmp_path)
    with pytest.raises(BadModel, match="expected shape"):
        load_prior(str(tmp_path))


def test_a_directory_that_is_none_is_no_hub_id() -> None:
    with pytest.raises(BadModel, match="no such directory"):
        load_prior("./models/nowhere")


def test_an_autoencoder_beside_the_pipeline_is_looked_at_too(good: Path, tmp_path: Path) -> None:
    autoencoder("AutoencoderKL").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(BadModel, match=r"vae: diffusion_pytorch_model.bin is no safetensors file"):
        load_prior(str(good), vae=str(tmp_path))


def test_the_full_size_bench_builds_sdxl() -> None:
    """Its configs are SDXL's, whose parameters are known to the last one."""
    assert [parameters(part) for part in on_meta()] == [2_567_463_684, 83_653_863]
