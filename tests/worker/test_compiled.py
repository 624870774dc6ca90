"""Networks compiled for the sizes that are expected."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.solver.pipelines import save_pipeline
from worker.compiled import compile_for
from worker.solver.prior import DiffusersPrior, load_prior


def compiled(prior: DiffusersPrior, tmp_path: Path, backend: Any, frames: int = 5) -> list[int]:
    told: list[int] = []
    compile_for(
        prior, [(64, 64)], frames, 2, None, cache=tmp_path / "cache", each=lambda: told.append(1), backend=backend
    )
    return told


@pytest.fixture
def prior(tmp_path: Path) -> DiffusersPrior:
    return load_prior(str(save_pipeline(tmp_path / "model", "sdxl")))


def test_sizes_that_were_met_are_compiled_and_others_run_as_they_are(prior: DiffusersPrior, tmp_path: Path) -> None:
    """Also for the smaller last micro-batch of a part, and at every timestep."""
    passed: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def run(*args: torch.Tensor) -> Any:
            passed.append(args[0].shape)
            return graph.forward(*args)

        return run

    x = {side: torch.rand(2, 3, side, side) * 2 - 1 for side in (64, 96)}
    with torch.inference_mode():
        plain = {side: prior.encode(x[side]) for side in x}
        noise = {t: prior.predict_noise(plain[64], t)[0] for t in (1, 201)}
        assert compiled(prior, tmp_path, backend) == [1]
        for side, runs in ((64, True), (96, False)):
            passed.clear()
            torch.testing.assert_close(prior.encode(x[side]), plain[side])
            assert bool(passed) is runs
        for t in (1, 201):
            passed.clear()
            torch.testing.assert_close(prior.predict_noise(plain[64], t)[0], noise[t])
            assert passed
        for frames, runs in ((1, True), (2, True), (3, False)):
            passed.clear()
            prior.encode(torch.zeros(frames, 3, 64, 64))
            assert bool(passed) is runs, frames


def test_what_cannot_be_compiled_runs_as_it_is(prior: DiffusersPrior, tmp_path: Path) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise RuntimeError("no compiler at hand")

    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        plain = prior.encode(x)
        assert compiled(prior, tmp_path, backend) == []
        assert torch.equal(prior.encode(x), plain)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # within torch
def test_what_was_compiled_is_kept_for_the_next_start(prior: DiffusersPrior, tmp_path: Path) -> None:
    with torch.inference_mode():
        plain = prior.encode(torch.ones(1, 3, 64, 64))
        assert compiled(prior, tmp_path, "inductor", frames=1) == [1]
        torch.testing.assert_close(prior.encode(torch.ones(1, 3, 64, 64)), plain, rtol=1e-3, atol=1e-4)
    assert any((tmp_path / "cache" / "inductor").rglob("*.so"))
