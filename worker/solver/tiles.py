"""Large frames in overlapping tiles, so that the prior's memory does not grow with the frame.

Every call to the prior is made once for each tile, and the answers are averaged where tiles overlap: noise as in
MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113), with weights that fall towards the ends of a tile; encoding and
decoding alike. All else in the loop, the data step before all, sees whole frames.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.solver.placed import placed
from worker.solver.stages import Prior

OVERLAP = 1 / 4  # of a tile, at least
LEAST_OVERLAP = 4  # multiples, at least
MARGIN = 1 / 4  # of an overlap: as far from its own end a tile does not count
LONGEST = 2  # times as long as wide, where that can be


class Place(NamedTuple):
    """Where a tile lies: rows and columns of the padded frame, in pixels."""

    rows: slice
    columns: slice

    def at(self, scale: int) -> tuple[slice, slice]:
        """The same in units of `scale` pixels."""
        rows, columns = (slice(s.start // scale, s.stop // scale) for s in self)
        return rows, columns


@dataclass(frozen=True)
class Tiling:
    """Tiles of one shape, spread evenly over frames of one size.

    padded: height and width of the frames in pixels, once they are padded. tile: those of a tile. tops, lefts: where
    rows and columns of tiles begin. All are multiples of what the prior pads frames to.
    """

    padded: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def within(cls, pixels: int, height: int, width: int, multiple: int) -> "Tiling":
        """The tiles of at most so many pixels that take the fewest pixels together; one if the frame has no more.

        Long strips are avoided where that can be. Raises ValueError where so few pixels make no tiles.
        """
        padded = (height + -height % multiple, width + -width % multiple)
        if height * width <= pixels:
            return cls(padded, padded, (0,), (0,))
        heights, widths = ([_side(length, n, multiple) for n in range(1, length // multiple + 1)] for length in padded)
        splits = [
            ((max(h, w) > LONGEST * min(h, w), rows * columns * h * w), rows, columns, (h, w))
            for (rows, h), (columns, w) in product(enumerate(heights, 1), enumerate(widths, 1))
            if h * w <= pixels
        ]
        if not splits:
            raise ValueError(f"frames of {width}x{height} make no tiles of {pixels} pixels that overlap enough")
        _, rows, columns, tile = min(splits)
        tops = _spread(padded[0], tile[0], rows, multiple)
        return cls(padded, tile, tops, _spread(padded[1], tile[1], columns, multiple))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Place]:
        h, w = self.tile
        for top, left in product(self.tops, self.lefts):
            yield Place(slice(top, top + h), slice(left, left + w))

    @lru_cache(maxsize=8)  # noqa: B019  a tiling is a few numbers
    def weights(self, scale: int) -> list[tuple[Tensor, Tensor]]:
        """How much each tile counts: its rows (h, 1) and columns (w,), in units of `scale` pixels; float64.

        They are raised cosines across the overlaps. At every place of the frame, their products sum to one.
        """
        down, across = (
            _profiles([start // scale for start in starts], side // scale)
            for starts, side in zip((self.tops, self.lefts), self.tile, strict=True)
        )
        down = [rows[:, None] for rows in down]
        return list(product(down, across))

    def settings(self) -> dict[str, Any]:
        """What the manifest says of them; the overlap is the least there is, width before height as everywhere."""
        overlap = [
            _overlap(starts, side) for starts, side in zip((self.lefts, self.tops), self.tile[::-1], strict=True)
        ]
        return {"count": len(self), "width": self.tile[1], "height": self.tile[0], "overlap": overlap}


def _side(length: int, count: int, multiple: int) -> int:
    """The least side of so many tiles in a row that cover a length and overlap enough; a multiple."""
    by_share = length / (count - (count - 1) * OVERLAP)
    by_least = (length + (count - 1) * LEAST_OVERLAP * multiple) / count
    return min(length, math.ceil(max(by_share, by_least) / multiple) * multiple)


def _spread(length: int, side: int, count: int, multiple: int) -> tuple[int, ...]:
    """Where so many tiles begin that are spread evenly over a length, on multiples."""
    step = (length - side) / max(1, count - 1)
    return tuple(multiple * round(n * step / multiple) for n in range(count))


def _overlap(starts: tuple[int, ...], side: int) -> int:
    return min((one + side - other for one, other in pairwise(starts)), default=0)


def seam_lines(starts: Sequence[int], side: int) -> list[int]:
    """Where along an axis a tile begins, ends, or starts or ceases to count: the lines at which a seam could show."""
    lines = []
    for one, other in pairwise(starts):
        margin = round(MARGIN * (one + side - other))
        lines += [other, other + margin, one + side - margin, one + side]
    return lines


def _profiles(starts: list[int], side: int) -> list[Tensor]:
    """How much each tile of a row counts at each of its places, (side,) float64 each; they sum to one everywhere."""
    raw = [torch.ones(side, dtype=torch.float64) for _ in starts]
    for n, (one, other) in enumerate(pairwise(starts)):
        both = one + side - other
        margin = MARGIN * both
        ramp = ((torch.arange(both) + 0.5 - margin) / (both - 2 * margin)).clamp(0, 1)
        rising = (0.5 - 0.5 * torch.cos(math.pi * ramp)).double()
        raw[n + 1][:both] *= rising
        raw[n][-both:] *= 1 - rising
    # Where more than two overlap, these do not sum to one yet.
    total = torch.zeros(starts[-1] + side, dtype=torch.float64)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + side] += weight
    return [weight / total[start : start + side] for start, weight in zip(starts, raw, strict=True)]


@dataclass(frozen=True)
class Tiled:
    """A prior that works tile by tile, on frames of the size that `tiling` was made for.

    Each tile is a picture of its own to it, and is told so by SDXL's micro-conditioning: its own size, not cropped.
    """

    prior: Prior
    tiling: Tiling

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w); what a tile lacks at the frame's edges the prior pads."""
        return self._blended(self.prior.encode(x[..., place.rows, place.columns]) for place in self.tiling)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        tiles = (self.prior.decode(part, self.tiling.tile) for part in self._cut(z))
        return self._blended(tiles)[..., : size[0], : size[1]]

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """eps_theta(z, t) guided and unguided, (B, C, h, w) each."""
        tiles = (torch.cat(self.prior.predict_noise(part, t)) for part in self._cut(z))
        guided, unguided = self._blended(tiles).chunk(2)
        return guided, unguided

    def _cut(self, z: Tensor) -> Iterator[Tensor]:
        """The tiles of latents."""
        scale = self.tiling.padded[0] // z.shape[-2]
        for place in self.tiling:
            rows, columns = place.at(scale)
            yield z[..., rows, columns]

    def _blended(self, tiles: Iterator[Tensor]) -> Tensor:
        """One picture of all tiles, whatever their scale; only one of them is held at a time."""
        first = next(tiles)
        scale = self.tiling.tile[0] // first.shape[-2]
        whole = first.new_zeros(*first.shape[:2], *(length // scale for length in self.tiling.padded))
        places = zip(self.tiling, self.tiling.weights(scale), strict=True)
        for tile, (place, (down, across)) in zip(chain([first], tiles), places, strict=True):
            rows, columns = place.at(scale)
            whole[..., rows, columns] += tile * placed(down, tile) * placed(across, tile)
        return whole
