"""Run the published solver's golden cases through this project's loop, and say how far apart the results are.

    python tools/parity.py tests/golden/deblur_plus.npz tests/golden/tiny-random-sdxl

A golden case is one run of the published solver, in float64 and without fresh noise. The last word of the last line is
the largest absolute difference of any value of the output, for pixels in [0, 1].
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.solver.operators import Chain, Operator
from worker.solver.prior import load_prior
from worker.solver.published import published_data_step, published_inversion, published_operators, published_sampling
from worker.solver.restore import Sampling, restore
from worker.solver.schedule import Schedule
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage

DEGRADATIONS: dict[str, list[Operator]] = {
    "temporal_blur": [TemporalAverage(13)],
    "+deblur": [TemporalAverage(7), GaussianBlur(3.0)],
    "deblur": [GaussianBlur(3.0)],
    "sr": [Downsample(4)],
}


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences: of the measurement, the inverted latents, and the output."""

    measurement: float
    inverted: float
    output: float


def parity(case: Path, model: Path) -> Parity:
    """Run one golden case on the pipeline in `model`, in float64."""
    golden = np.load(case)
    config = json.loads(str(golden["config"]))
    operator: Chain = published_operators(DEGRADATIONS[config["degradation"]])
    clip = torch.from_numpy(golden["video"]).double().permute(0, 3, 1, 2) / 127.5 - 1
    y = operator.A(clip)  # the file's own is rounded to float32, which the loop amplifies some hundred times

    prior = load_prior(str(model), dtype=torch.float64).prompted(config["prompt"], config["cfg_guidance"])
    prior = prior.as_published()
    schedule = Schedule.leading(prior.abar, config["nfe"], config["inversion_time"] / 1000)
    sampling = published_sampling(Sampling(schedule, eta=config["eta"], lowpass=config["lpf_scale"] ** 0.5))
    lifted = operator.lift(y)
    with torch.inference_mode():
        inverted = published_inversion(prior, prior.encode(lifted[:1]), sampling.schedule)
    data_step = published_data_step(operator, y, config["cg_steps"])
    x = restore(prior, lifted, data_step, sampling, torch.Generator())

    def apart(found: Tensor, name: str) -> float:
        return float((found - torch.from_numpy(golden[name])).abs().max())

    return Parity(
        measurement=apart(y, "measurement"),
        inverted=apart(inverted, "z_inverted"),
        output=apart((x.clamp(-1, 1) + 1) / 2, "output"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, help="an .npz file")
    parser.add_argument("model", type=Path, help="the pipeline it was made with, a directory in diffusers format")
    args = parser.parse_args()
    found = parity(args.case, args.model)
    print(f"measurement {found.measurement:.1e}")
    print(f"latents after inversion {found.inverted:.1e}")
    print(f"output {found.output:.1e}")


if __name__ == "__main__":
    main()
