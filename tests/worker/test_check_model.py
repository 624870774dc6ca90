"""`vxl check-model`, as typed in a shell, and what it makes of models that load but restore nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.worker.solver.pipelines import autoencoder, save_pipeline
from worker.check_model import judge, noise_errors
from worker.demo import SAMPLE
from worker.solver.prior import load_prior
from worker.video import read_clip


def check_model(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "check-model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def sample() -> Tensor:
    return read_clip(SAMPLE, 1).frames.float()


def test_a_good_model_has_nothing_said_against_it() -> None:
    done = check_model("bundled", "--frames", 1)
    assert done.returncode == 0, done.stderr
    told = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert told["kind"].strip() == "sdxl"
    assert told["weights sha256"].strip() == load_prior().weights_sha256
    assert float(told["encode-decode"].split()[0]) > 40
    assert "warning" not in done.stdout and "bad" not in done.stdout


def test_each_fault_has_a_line(tmp_path: Path) -> None:
    save_pipeline(tmp_path, "sd15", unet={"in_channels": 9}, prediction_type="sample")
    for file in (tmp_path / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    done = check_model(tmp_path)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first.startswith("bad  vae: diffusion_pytorch_model.bin is no safetensors file")
    assert second.startswith("bad  the UNet takes 9 channels")


def test_a_device_that_is_not_there_is_named() -> None:
    done = check_model("bundled", "--device", "nowhere")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "nowhere" in done.stdout


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_an_untrained_model_is_told_whatever_it_predicts(prediction: str, tmp_path: Path, sample: Tensor) -> None:
    """Against a UNet that gives zero, which is no better than nothing but may be near where v or x0 is predicted."""
    prior = load_prior(str(save_pipeline(tmp_path, "sd2", prediction_type=prediction)))
    faults, warnings = judge(prior, sample)
    assert faults == []
    assert [line.split(":")[0] for line in warnings] == [
        "the autoencoder hardly keeps a picture",
        "the UNet tells no noise",
    ]


def test_noise_is_compared_with_what_was_added(sample: Tensor) -> None:
    prior = load_prior()
    with torch.inference_mode():
        errors = noise_errors(prior, prior.encode(2 * sample - 1))
    assert all(error.of_zero == pytest.approx(1, abs=0.02) for error in errors)
    assert all(0.1 < error.rms < 0.7 for error in errors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_unet_that_gives_no_numbers_is_named(value: float, tmp_path: Path, sample: Tensor) -> None:
    prior = load_prior(str(save_pipeline(tmp_path, "sdxl")))
    with torch.no_grad():
        prior.unet.conv_out.bias.fill_(value)
    faults, _ = judge(prior, sample)
    assert faults == ["the UNet gives values that are no numbers: try a wider VXL_DTYPE"]


def test_an_autoencoder_that_overflows_in_half_precision_is_named(tmp_path: Path, sample: Tensor) -> None:
    """As SDXL's own does, where its config does not say so."""
    save_pipeline(tmp_path, "sdxl")
    vae = autoencoder("AutoencoderKL")
    vae.register_to_config(force_upcast=False)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e6)
    vae.save_pretrained(tmp_path / "vae")
    faults, _ = judge(load_prior(str(tmp_path), dtype=torch.float16), sample)
    assert len(faults) == 1
    assert "no numbers in float16, set VXL_VAE" in faults[0]
