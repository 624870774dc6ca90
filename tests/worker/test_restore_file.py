"""`vxl restore`, as typed in a shell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.measures import psnr
from worker.solver.operators import Chain
from worker.solver.spatial import Downsample, GaussianBlur
from worker.video import read_clip


def vxl(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "restore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_names_the_command_as_it_is_typed() -> None:
    assert "Usage: vxl restore [OPTIONS]" in vxl("--help").stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of the sample clip, 64x40."""
    path = tmp_path_factory.mktemp("clip") / "small.mp4"
    clip = read_clip(SAMPLE, 2)
    write_clip(path, Chain([Downsample(4)]).A(clip.frames.float()), clip, pts=clip.pts, crf=10)
    return path


def test_a_file_is_restored_without_a_service(small: Path, tmp_path: Path) -> None:
    output, comparison = tmp_path / "out.mp4", tmp_path / "both.mp4"
    done = vxl(small, "-o", output, "--task", "super_resolution_x4", "--comparison", comparison)
    assert done.returncode == 0, done.stderr
    assert read_clip(output).frames.shape == (2, 3, 160, 256)
    assert read_clip(comparison).frames.shape[-1] == 2 * 256 + 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.mp4", "out.mp4"]


def test_any_degradation_is_taken_as_json(small: Path, tmp_path: Path) -> None:
    stated = '[{"kind": "temporal_average", "window": 2, "boundary": "valid"}, {"kind": "gaussian_blur", "sigma": 1}]'
    done = vxl(small, "-o", tmp_path / "out.mp4", "--degradation", stated)
    assert done.returncode == 0, done.stderr
    assert read_clip(tmp_path / "out.mp4").frames.shape == (3, 3, 40, 64)


def test_the_published_solver_can_be_had(tmp_path: Path) -> None:
    """On a file of 8 bits it ends farther from the measurement than it began; the default ends nearer."""
    clip, blurred = read_clip(SAMPLE, 2), tmp_path / "blurred.mp4"
    operator = Chain([Downsample(2), GaussianBlur(3.0)])
    write_clip(blurred, operator.A(clip.frames.float()), clip, pts=clip.pts, crf=10)
    for preset, nearer in (("default", True), ("published", False)):
        done = vxl(blurred, "-o", tmp_path / f"{preset}.mp4", "--task", "deblur", "--preset", preset)
        assert done.returncode == 0, done.stderr
        before, after = map(float, re.findall(r"residual (\S+) -> (\S+)", " ".join(done.stderr.split()))[0])
        assert (after < before) is nearer


def test_what_happened_is_found_where_asked(tmp_path: Path) -> None:
    """A still, so that the window is of no matter; restored with what was found it ends nearer to the truth."""
    clip, blurred, output = read_clip(SAMPLE, 1), tmp_path / "blurred.mp4", tmp_path / "out.mp4"
    truth = clip.frames.float().expand(3, -1, -1, -1)
    write_clip(blurred, GaussianBlur(2.0).A(truth), clip, pts=read_clip(SAMPLE, 3).pts, crf=6)
    done = vxl(blurred, "-o", output, "--blur", "estimate")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    sigma, confidence = map(float, re.findall(r'"gaussian_blur", "sigma": (\S+?), .* confidence (\S+)', told)[0])
    assert sigma == pytest.approx(2, rel=0.15)
    assert 0.75 <= confidence <= 1
    assert psnr(read_clip(output).frames.float(), truth) > psnr(read_clip(blurred).frames.float(), truth) + 1


def test_a_clip_that_does_not_tell_what_happened_is_refused(tmp_path: Path) -> None:
    done = vxl(SAMPLE, "-o", tmp_path / "out.mp4", "--blur", "estimate")
    assert done.returncode == 2
    assert "What happened is not clear: the frames look sharp" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_clean_clip_is_degraded_first_where_asked(small: Path, tmp_path: Path) -> None:
    done = vxl(small, "-o", tmp_path / "out.mp4", "--task", "inpaint", "--simulate", "--noise-sigma", "0.02")
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"PSNR (\S+) -> (\S+) dB", " ".join(done.stderr.split()))[0])
    assert 20 < before < after
    assert "noise 0.0200" in " ".join(done.stderr.split())
    assert read_clip(tmp_path / "out.mp4").frames.shape == (2, 3, 40, 64)


def test_a_masked_clip_is_filled_in(small: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    known = torch.full((40, 64), 255, dtype=torch.uint8)
    known[10:20, 20:40] = 0
    Image.fromarray(known.numpy()).save(mask)
    clip = read_clip(small)
    holed = tmp_path / "holed.mp4"
    write_clip(holed, clip.frames.float() * (known > 0), clip, pts=clip.pts, crf=4, full_chroma=True)
    done = vxl(holed, "-o", tmp_path / "out.mp4", "--task", "inpaint", "--mask", mask)
    assert done.returncode == 0, done.stderr
    hole = (known == 0).expand(2, 3, -1, -1)
    filled = read_clip(tmp_path / "out.mp4").frames.float()[hole]
    assert (filled - clip.frames.float()[hole]).square().mean() < 0.2 * clip.frames.float()[hole].square().mean()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give either task or"),
        (["--task", "inpaint"], "mask: a degradation takes a mask"),
        (["--task", "deblur", "--kernel", "README.md"], "kernel: no degradation takes a kernel"),
        (["--degradation", '[{"kind": "temporal_average", "window": 5}]'], "degradation.0.window: the window of 5"),
        (["--degradation", '[{"kind": "fog"}]'], "degradation.0: "),
        (["--degradation", '[{"kind": "kernel_blur", "kernel": [[0.5]]}]'], "degradation.0.kernel: the weights of"),
        (["--degradation", '[{"kind": "gaussian_blur", "sigma": NaN}]'], "degradation.0.sigma: "),
        (
            ["--degradation", '[{"kind": "downsample", "factor": 16}, {"kind": "downsample", "factor": 8}]'],
            "degradation: ",
        ),
        (["--degradation", "[]"], "give either task or"),
        (["--degradation", "sharpen"], "Expecting value"),
        (["--blur", "estimate", "--task", "deblur"], "give either task or"),
        (["--blur", "estimate", "--simulate"], "blur: there is nothing to estimate"),
        (["--blur", "guess"], "blur: Input should be 'estimate'"),
        (["--task", "deblur", "--tau", "2"], "solver.tau: "),
        (["--task", "deblur", "--tau", "0.0001"], "solver.tau: "),
        (
            ["--simulate", "--degradation", '[{"kind": "downsample", "factor": 3}]'],
            "degradation.0.factor: frames of 64x40",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(small: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    done = vxl(small, "-o", tmp_path / "out.mp4", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
