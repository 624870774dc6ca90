"""Images the bundled prior learns from: photographs that come with two PyPI packages, and dead-leaves pictures.

`chelsea` (the sample clip) and `coffee` are left out on purpose: the settings are chosen on clips made from them.
Licences are listed in NOTICE.
"""

import numpy as np
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SKIMAGE = (
    "astronaut",
    "rocket",
    "camera",
    "brick",
    "grass",
    "gravel",
    "coins",
    "hubble_deep_field",
    "retina",
    "immunohistochemistry",
)
SKLEARN = ("china.jpg", "flower.jpg")
SCALES = (1.0, 0.6, 0.36)


def photographs() -> list[Pixels]:
    """Every training photograph as (H, W, 3) uint8."""
    named = [getattr(skimage.data, name)() for name in SKIMAGE]
    named += [sklearn.datasets.load_sample_image(name) for name in SKLEARN]
    return [np.repeat(p[..., None], 3, axis=-1) if p.ndim == 2 else p[..., :3] for p in named]


def dead_leaves(photos: list[Pixels], size: int, rng: np.random.Generator) -> Pixels:
    """Overlapping shapes with a power-law of radii, filled with colours or texture of the photographs.

    Source of the model: Matheron 1968; Lee, Mumford and Huang, IJCV 2001.

    Returns (size, size, 3) uint8.
    """
    picture = np.zeros((size, size, 3), np.float32)
    empty = np.ones((size, size), bool)
    while empty.mean() > 0.01:
        # The inverse-cube law of radii makes the picture scale invariant, as photographs are.
        r = 1 / np.sqrt(rng.uniform(1 / (size / 4) ** 2, 1 / 5**2))
        cy, cx, angle, aspect = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0, np.pi), rng.uniform(0.3, 1)
        top, left = max(0, int(cy - 1.5 * r)), max(0, int(cx - 1.5 * r))
        here = slice(top, int(cy + 1.5 * r) + 1), slice(left, int(cx + 1.5 * r) + 1)
        hole = empty[here]
        yy, xx = np.ogrid[top : top + hole.shape[0], left : left + hole.shape[1]]
        u = (xx - cx) * np.cos(angle) + (yy - cy) * np.sin(angle)
        v = ((yy - cy) * np.cos(angle) - (xx - cx) * np.sin(angle)) / aspect
        inside = (np.maximum(abs(u), abs(v)) < r) if rng.random() < 0.4 else (u**2 + v**2 < r**2)
        inside &= hole
        ys, xs = np.nonzero(inside)
        photo = photos[rng.integers(len(photos))]
        oy, ox = rng.integers(photo.shape[0]), rng.integers(photo.shape[1])
        if rng.random() < 0.35:
            fill = photo[(ys + oy) % photo.shape[0], (xs + ox) % photo.shape[1]]
        else:
            fill = photo[oy, ox] + (u[inside] / r)[:, None] * rng.normal(0, 12, 3)
        picture[here][inside] = fill
        empty[here] &= ~inside
    return np.clip(picture, 0, 255).astype(np.uint8)


class Crops:
    """Endless random square crops: scale, flip, quarter turn, channel order, contrast and brightness drawn for each."""

    def __init__(self, seed: int, leaves: int = 60) -> None:
        self.rng = np.random.default_rng(seed)
        photos = photographs()
        self.photos = [
            np.asarray(Image.fromarray(p).resize((int(p.shape[1] * s), int(p.shape[0] * s)), Image.Resampling.LANCZOS))
            for p in photos
            for s in SCALES
            if min(p.shape[:2]) * s >= 136
        ]
        self.leaves = []
        for _ in range(leaves):
            big = Image.fromarray(dead_leaves(photos, 512, self.rng))
            self.leaves.append(np.asarray(big.resize((320, 320), Image.Resampling.LANCZOS)))
        # Larger pictures hold more to learn, but must not drown the small scales; flat ones hold little.
        worth = np.array([p.std() * (p.shape[0] * p.shape[1]) ** 0.5 for p in self.photos])
        self.weights = worth / worth.sum()

    def one(self, size: int) -> NDArray[np.float32]:
        """(3, size, size) float32 in [-1, 1]."""
        rng = self.rng
        pool = self.leaves if rng.random() < 0.25 else None
        p = pool[rng.integers(len(pool))] if pool else self.photos[rng.choice(len(self.photos), p=self.weights)]
        y, x = rng.integers(p.shape[0] - size + 1), rng.integers(p.shape[1] - size + 1)
        crop = p[y : y + size, x : x + size].astype(np.float32) / 127.5 - 1
        crop = np.rot90(crop, int(rng.integers(4)))[:, :: rng.choice((1, -1))]
        crop = crop[..., rng.permutation(3)] if rng.random() < 0.5 else crop
        grey = crop.mean((0, 1), keepdims=True)
        crop = grey * rng.uniform(0.7, 1.1) + (crop - grey) * rng.uniform(0.6, 1.3) + rng.normal(0, 0.08, 3)
        if rng.random() < 0.3:
            luma = crop.mean(-1, keepdims=True)
            crop = luma * rng.uniform(0.7, 1.2, 3) + (crop - luma) * rng.uniform(0, 1)
        return np.ascontiguousarray(np.clip(crop, -1, 1).transpose(2, 0, 1), np.float32)

    def batch(self, count: int, size: int) -> NDArray[np.float32]:
        """(count, 3, size, size) float32 in [-1, 1]."""
        return np.stack([self.one(size) for _ in range(count)])
