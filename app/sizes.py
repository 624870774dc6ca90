"""The sizes SDXL was trained for, and which of them a frame is near.

Width and height, of about a megapixel each: those of the multi-aspect training (Podell et al. 2023, arXiv 2307.01952,
section 2.3 and appendix I) whose sides are no more than 3:1, as offered with the released model.
"""

from math import log

SDXL_SIZES = (
    (704, 1408),
    (704, 1344),
    (768, 1344),
    (768, 1280),
    (832, 1216),
    (832, 1152),
    (896, 1152),
    (896, 1088),
    (960, 1088),
    (960, 1024),
    (1024, 1024),
    (1024, 960),
    (1088, 960),
    (1088, 896),
    (1152, 896),
    (1152, 832),
    (1216, 832),
    (1280, 768),
    (1344, 768),
    (1344, 704),
    (1408, 704),
    (1472, 704),
    (1536, 640),
    (1600, 640),
    (1664, 576),
    (1728, 576),
)


def nearest_sdxl_size(width: int, height: int) -> tuple[int, int]:
    """The size whose shape is nearest (by the logarithm of width to height), and of two such the nearer in pixels."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(log(width * size[1] / (height * size[0]))), abs(width * height - size[0] * size[1])

    return min(SDXL_SIZES, key=distance)


def too_small_for_sdxl(width: int, height: int) -> str | None:
    """A warning for frames of less than a quarter of the pixels of the nearest size."""
    w, h = nearest_sdxl_size(width, height)
    if 4 * width * height >= w * h:
        return None
    return f"Frames of {width}x{height} are far from any size that SDXL was trained for; the nearest is {w}x{h}."
