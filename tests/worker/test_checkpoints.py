"""Interrupted at any point and taken up by another, a clip comes out bit for bit as if nothing had happened."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from app.restoration import Restoration
from app.store import Store
from tests.worker.test_pipeline import Follower, small, written
from worker.checkpoints import StoredCheckpoints
from worker.demo import SAMPLE
from worker.outcome import Outcome
from worker.pipeline import Pipeline
from worker.scenes import scan
from worker.solve import TILE_PIXELS
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.stages import Stage
from worker.video import read_clip

AVERAGE = [{"kind": "temporal_average", "window": 3}, {"kind": "gaussian_blur", "sigma": 1}]
KERNEL = [{"kind": "kernel_blur", "kernel": [[0, 0.125, 0.125], [0.125, 0.25, 0.125], [0, 0.25, 0]]}]


MOST = 10


class Interrupted(Exception):
    """The worker has to go."""


class Interrupting(Follower):
    """Ends the work at the n-th piece of it, and counts them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.pieces, self.own = at, 0, 0  # own: what this attempt denoised

    def check(self) -> None:
        self.pieces += 1
        if self.pieces == self.at:
            raise Interrupted

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        super().watch(stage, frames, seconds)
        self.own += frames if stage == "denoise" else 0
        self.check()


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


Go = Callable[..., tuple[dict[str, Any], Interrupting]]


Make = Callable[..., Pipeline]


@pytest.fixture
def make(prior: DiffusersPrior) -> Make:
    def make(source: Path, follower: Follower, **wanted: Any) -> Pipeline:
        return Pipeline(
            prior,
            Restoration.model_validate({"solver": {"steps": 10, "tau": 0.2}} | wanted),
            source,
            scan(source),
            None,
            None,
            micro_batch=3,
            part_frames=6,
            tile_pixels=TILE_PIXELS,
            follower=follower,
        )

    return make


@pytest.fixture
def go(make: Make, tmp_path: Path) -> Go:
    """Restore a clip, ended at the n-th piece of work or not at all; -> what is to be told of it, and the follower."""
    store = Store(str(tmp_path / "files"))

    def go(
        source: Path, at: int | None = None, identity: str = "this", kept: bool = True, **wanted: Any
    ) -> tuple[dict[str, Any], Interrupting]:
        follower = Interrupting(at)
        directory = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        pipeline = make(source, follower, **wanted)
        if not kept:
            return told(pipeline.run(directory)), follower
        with StoredCheckpoints(store, "job_1", identity, directory) as checkpoints:
            return told(pipeline.run(directory, checkpoints)), follower

    return go


def told(outcome: Outcome) -> dict[str, Any]:
    digests = {name: sha256(path.read_bytes()).hexdigest() for name, path in outcome.files.items()}
    names = ("frames", "settings", "scenes", "per_frame", "compared", "warnings", "residual", "noise_sigma")
    as_told: dict[str, Any] = json.loads(json.dumps({name: getattr(outcome, name) for name in names}))
    return digests | as_told


@pytest.fixture
def clip() -> Tensor:
    """71 frames of one scene: as parts of six frames two runs that overlap."""
    frames = small(read_clip(SAMPLE))
    return torch.cat([frames, frames.flip(0)[1:], frames[1:23]])


@pytest.mark.parametrize(
    ("frames", "stated"),
    [
        (71, {"degradation": AVERAGE}),
        (71, {"degradation": AVERAGE, "simulate": True}),
        (30, {"degradation": KERNEL}),
    ],
    ids=["overlap", "simulated", "iterated"],
)
def test_interrupted_anywhere_it_comes_out_the_same(
    go: Go, clip: Tensor, tmp_path: Path, frames: int, stated: dict[str, Any]
) -> None:
    source = written(tmp_path / "in.mp4", torch.cat([clip[:frames], 1 - clip[:5].flip(-1)]))
    expected, undisturbed = go(source, kept=False, **stated)
    assert len(expected["scenes"]) == 2
    attempts = 0
    while True:
        try:
            at = None if attempts == MOST else undisturbed.pieces * 2 // 5 + 7 * attempts  # not the same place twice
            found, last = go(source, at, **stated)
            break
        except Interrupted:
            attempts += 1
    assert 1 < attempts < MOST
    assert found == expected
    assert last.denoised == last.total > last.own


@pytest.mark.parametrize("stated", [{"degradation": AVERAGE}, {"degradation": AVERAGE, "simulate": True}])
def test_segments_made_apart_are_joined_as_if_one_had_made_them(
    go: Go, make: Make, clip: Tensor, tmp_path: Path, stated: dict[str, Any]
) -> None:
    """The last one first, each by a pipeline of its own."""
    source = written(tmp_path / "in.mp4", torch.cat([clip, 1 - clip[:5].flip(-1)]))
    expected, _ = go(source, kept=False, **stated)
    store, runs = Store(str(tmp_path / "files")), len(make(source, Follower(), **stated).plan.runs)
    assert runs == 3
    for n in reversed(range(runs)):
        (directory := tmp_path / f"apart{n}").mkdir()
        with StoredCheckpoints(store, "job_1", "this", directory) as checkpoints:
            make(source, Follower(), **stated).solve(n, directory, checkpoints)
    found, last = go(source, **stated)
    assert found == expected
    assert last.own == 0


def test_of_an_interrupted_job_no_more_than_a_step_is_done_again(go: Go, clip: Tensor, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mp4", clip[:20])
    _, undisturbed = go(source, kept=False, degradation=AVERAGE)
    steps = undisturbed.total // 20
    with pytest.raises(Interrupted):
        go(source, undisturbed.pieces - 20, degradation=AVERAGE)  # in the last step
    _, last = go(source, degradation=AVERAGE)
    assert last.denoised == last.total
    assert (last.own, undisturbed.own) == (20, 20 * steps)


@pytest.mark.parametrize("harm", ["cut short", "changed", "gone", "no list", "another request"])
def test_what_cannot_be_trusted_is_left_alone(go: Go, clip: Tensor, tmp_path: Path, harm: str) -> None:
    source = written(tmp_path / "in.mp4", clip[:12])
    expected, undisturbed = go(source, kept=False, degradation=AVERAGE)
    with pytest.raises(Interrupted):
        go(source, undisturbed.pieces - 10, degradation=AVERAGE)
    kept = tmp_path / "files" / "checkpoints" / "job_1"
    (latents,), listed = (kept / "steps-0").iterdir(), kept / "steps-0.json"
    match harm:
        case "cut short":
            latents.write_bytes(latents.read_bytes()[:-1])
        case "changed":
            content = bytearray(latents.read_bytes())
            content[-1] ^= 1
            latents.write_bytes(content)
        case "gone":
            latents.unlink()
        case "no list":
            listed.write_text("{")
    with capture_logs() as logs:
        found, last = go(source, identity="another" if harm == "another request" else "this", degradation=AVERAGE)
    assert found == expected
    assert last.own == last.total
    assert ("warning", "checkpoint ignored") in [(line["log_level"], line["event"]) for line in logs]
