"""The training tool: what it saves it goes on from, and what it exports loads."""

from functools import partial
from pathlib import Path

import pytest
import torch

import train_tiny_prior as tool
from training_images import Crops
from worker.solver.prior import BUNDLED, load_prior


def test_a_pupil_of_another_kind_starts_as_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bundled checkpoint, after one step: it predicts v, has no sizes, and still knows what its teacher knew."""
    monkeypatch.setattr(tool, "STATE", tmp_path / "state")
    monkeypatch.setattr(tool, "Crops", partial(Crops, leaves=0))  # dead leaves take a minute to paint
    monkeypatch.setattr(tool, "TARGETS", {"sdxl": BUNDLED, "sd2": tmp_path / "sd2"})
    tool.adopt(0)
    tool.train_unet(1, seed=0, like="sd2")
    assert tool.steps_done("unet-sd2") == 1
    tool.export("sd2")

    pupil, teacher = load_prior(str(tmp_path / "sd2")), load_prior()
    assert (pupil.kind, pupil.prediction, pupil.bundled) == ("sd2", "v_prediction", False)
    assert (teacher.kind, teacher.prediction) == ("sdxl", "epsilon")
    torch.testing.assert_close(pupil.vae.state_dict(), teacher.vae.state_dict(), rtol=0, atol=2e-3)
    torch.testing.assert_close(pupil.unet.conv_in.weight, teacher.unet.conv_in.weight, rtol=0, atol=5e-3)
