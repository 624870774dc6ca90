"""Tiers: the same problem solved in all its steps (exact), in about half of them (fast), or in one (draft).

A draft also shows the prior frames half as large each way (worker/solver/halved.py). What each costs in quality and
gains in speed is in docs/performance.md.
"""

from dataclasses import replace

from app.restoration import Tier
from worker.solver.restore import Sampling, straight_inversion
from worker.solver.schedule import Schedule

ENOUGH = 3  # steps that are not thinned


def at_tier(sampling: Sampling, tier: Tier) -> Sampling:
    """The same sampling at a tier.

    fast: the last step goes, which only takes away 3% of noise, and every second one where there are more than ENOUGH;
    inverted straight to the first. draft: the first step alone, from latents with fresh noise instead of an inversion.
    """
    steps = sampling.schedule.timesteps
    match tier:
        case "exact":
            return sampling
        case "fast":
            kept = steps[:-1] or steps
            kept = kept[::2] if len(kept) > ENOUGH else kept
            return replace(sampling, schedule=Schedule(sampling.schedule.abar, kept), inversion=straight_inversion)
        case "draft":
            return replace(sampling, schedule=Schedule(sampling.schedule.abar, steps[:1]), init="random")
