"""The benches measure what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from spectra import Radial
from timing import STAGES
from torch import Tensor

from worker.demo import SAMPLE
from worker.video import read_clip

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return read_clip(SAMPLE, 3).frames.float()


def test_quality_runs_and_draws(tmp_path: Path) -> None:
    stated = ["--frames", "2", "--tasks", "super_resolution_x4", "--plus", "super_resolution_x4"]
    command = [sys.executable, "bench/quality.py", str(SAMPLE), *stated, "--figures", str(tmp_path)]
    done = subprocess.run([*command, "--show", "tasks", "noise", "spectrum"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| sample | super_resolution_x4")]
    given, data, full = float(rows[0][2]), float(rows[0][4]), float(rows[0][5])
    assert given < full < data + 1 < given + 5
    assert [row[2] for row in rows[1:]] == ["shared", "independent"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.png", "spectrum_super_resolution_x4.png"]


def test_speed_compares_like_with_like(tmp_path: Path) -> None:
    """The published arrangement, and the same arithmetic in ours, give the same clip by other operations."""
    report = tmp_path / "speed.json"
    stated = ["--size", "48x64", "--frames", "2", "--rounds", "1", "--tasks", "deblur_plus", "--json", str(report)]
    done = subprocess.run([sys.executable, "bench/speed.py", *stated], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["deblur_plus, 2 frames"]
    assert found["same"]["psnr_to_published"] > 60
    assert found["published"]["tflop"]["all"] > 1.5 * found["same"]["tflop"]["all"] > 0
    assert found["published"]["tflop"]["denoise"] == pytest.approx(2 * found["same"]["tflop"]["denoise"], rel=1e-3)
    assert found["published"]["psnr"] < found["ours"]["psnr"]
    for of in found.values():
        assert of["seconds"]["all"] == pytest.approx(sum(of["seconds"][stage] for stage in STAGES), rel=1e-6)


def test_white_noise_has_a_flat_spectrum() -> None:
    noise = 2 / 255 * torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    curve = Radial(96, 128).rms(noise)
    assert all(value == pytest.approx(1, rel=0.25) for value in curve[2:])
