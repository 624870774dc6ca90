"""YUV <-> RGB, exact: the matrix and range of the tags, chroma where the standards put it.

    R = Y + 2 (1 - kr) V,    B = Y + 2 (1 - kb) U,    Y = kr R + (1 - kr - kb) G + kb B          (ITU-T H.273)

The maths runs in torch, on the device of the frame, and PyAV moves planes only. swscale takes about as long (1280x768
on one core: 6 to 9 ms here, 2 to 12 ms there), but even with BICUBIC, ACCURATE_RND, FULL_CHR_H_INT and FULL_CHR_H_INP
its output deeper than 8 bits is half a level too bright, and on saturated edges it is 2 levels off on average, as it
takes 4:2:0 chroma to lie elsewhere. tests/worker/test_video.py holds this file to an independent float64 computation.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.plane import VideoPlane
from numpy.typing import NDArray
from torch import Tensor

BT709: Final = 1  # the code of BT.709 in H.273, for matrix, primaries and transfer alike
LIMITED: Final = 1  # 16 to 235, as AVCOL_RANGE_MPEG
_FULL: Final = 2  # 0 to 255, as AVCOL_RANGE_JPEG

# kr and kb by matrix code of H.273
_WEIGHTS: Final[dict[int, tuple[float, float]]] = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_UNTAGGED: Final = frozenset({0, 2, 3})  # 0 says RGB, which YUV planes are not
_PLANAR: Final = re.compile(r"(yuvj?4(20|22|44|40|11|10)p|gbrp|gray)((9|10|12|14|16)le)?")


@dataclass(frozen=True)
class Colour:
    """How YUV samples stand for colours: the weights of red and blue in luma, and whether all codes are used."""

    kr: float
    kb: float
    full: bool


def colour_of(frame: av.VideoFrame) -> Colour:
    """What the tags say; untagged is BT.709 from 720 lines or 1280 columns up, else BT.601, as players take it.

    Raises ValueError for a matrix that is no weighted sum (YCgCo, ICtCp, constant luminance).
    """
    matrix = frame.colorspace
    if matrix in _UNTAGGED:
        matrix = 1 if frame.height >= 720 or frame.width >= 1280 else 6
    if matrix not in _WEIGHTS:
        raise ValueError(f"colour matrix {matrix} is not supported")
    return Colour(*_WEIGHTS[matrix], full=frame.color_range == _FULL or frame.format.name.startswith("yuvj"))


def to_rgb(frame: av.VideoFrame, centred: bool = False) -> Tensor:
    """A decoded frame as (3, H, W) float32 RGB in [0, 1]; 8 to 16 bits, YUV, RGB or grey, alpha ignored.

    centred: chroma lies centred between luma columns (MPEG-1, JPEG), not on the left one (all later codecs).
    """
    raw = _planar(frame)
    bits = raw.format.components[0].bits
    if raw.format.name.startswith("gbrp"):
        g, b, r = (_samples(plane, bits) for plane in raw.planes[:3])
        return torch.stack([r, g, b]).div_(2**bits - 1)

    colour = colour_of(frame)
    scale = 2.0 ** (bits - 8)
    black, luma_span, chroma_span = (
        (0.0, 2.0**bits - 1, 2.0**bits - 1) if colour.full else (16 * scale, 219 * scale, 224 * scale)
    )
    y = _samples(raw.planes[0], bits).sub_(black).div_(luma_span)
    if raw.format.name.startswith("gray"):
        return y.clamp_(0, 1).expand(3, *y.shape).clone()
    chroma = torch.stack([_samples(raw.planes[1], bits), _samples(raw.planes[2], bits)])
    u, v = _upsample(chroma.sub_(128 * scale).div_(chroma_span), y.shape, centred)

    kr, kb = colour.kr, colour.kb
    kg = 1 - kr - kb
    rgb = torch.empty(3, *y.shape)
    torch.add(y, v, alpha=2 * (1 - kr), out=rgb[0])
    torch.add(y, u, alpha=-2 * (1 - kb) * kb / kg, out=rgb[1])
    rgb[1].sub_(v, alpha=2 * (1 - kr) * kr / kg)
    torch.add(y, u, alpha=2 * (1 - kb), out=rgb[2])
    return rgb.clamp_(0, 1)


def from_rgb(rgb: Tensor, pixel_format: str, primaries: int = BT709, transfer: int = BT709) -> av.VideoFrame:
    """(3, H, W) RGB in [0, 1], on any device, as a frame of BT.709 matrix and limited range, tagged so.

    pixel_format: yuv420p (even sizes) or yuv444p. primaries, transfer: codes of H.273, tagged as they are.
    """
    kr, kb = _WEIGHTS[BT709]
    r, g, b = rgb.float().clamp(0, 1)
    y = kr * r + (1 - kr - kb) * g + kb * b
    chroma = torch.stack([(b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))])
    if pixel_format == "yuv420p":
        chroma = _downsample(chroma)
    planes = [y * 219 + 16, *(chroma * 224 + 128)]

    frame = av.VideoFrame(rgb.shape[2], rgb.shape[1], pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = BT709, LIMITED
    frame.color_primaries, frame.color_trc = primaries, transfer
    return frame


def _planar(frame: av.VideoFrame) -> av.VideoFrame:
    """The same samples in a layout to_rgb reads: one little-endian plane a component."""
    form = frame.format
    if _PLANAR.fullmatch(form.name):
        return frame
    deep = form.components[0].bits > 8
    if form.is_rgb or form.has_palette or form.name.startswith("mono"):
        return frame.reformat(format="gbrp16le" if deep else "gbrp")
    if len(form.components) < 3:  # grey, with or without alpha
        return frame.reformat(format="gray16le" if deep else "gray")
    across = form.width // form.chroma_width(form.width)
    down = form.height // form.chroma_height(form.height)
    chroma = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411"}[across, down]
    depth = f"{form.components[0].bits}le" if deep else ""
    return frame.reformat(format=f"yuv{chroma}p{depth}")


def _samples(plane: VideoPlane, bits: int) -> Tensor:
    """One plane as (h, w) float32 code values."""
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    rows: NDArray[Any] = np.frombuffer(cast(bytes, plane), dtype)
    rows = rows.reshape(plane.height, plane.line_size // dtype.itemsize)
    return torch.from_numpy(rows[:, : plane.width].astype(np.float32))


def _upsample(chroma: Tensor, size: tuple[int, ...], centred: bool) -> Tensor:
    """(2, h, w) -> (2, H, W), linear; rows centred between luma rows, columns as `centred` says."""
    height, width = size
    while chroma.shape[1] < height:
        chroma = F.interpolate(chroma[None], scale_factor=(2, 1), mode="bilinear")[0]
    while chroma.shape[2] < width:
        if centred:
            chroma = F.interpolate(chroma[None], scale_factor=(1, 2), mode="bilinear")[0]
            continue
        wide = chroma.new_empty(*chroma.shape[:2], 2 * chroma.shape[2])
        wide[..., ::2] = chroma
        wide[..., 1:-1:2] = (chroma[..., 1:] + chroma[..., :-1]) / 2
        wide[..., -1] = chroma[..., -1]
        chroma = wide
    return chroma[:, :height, :width]  # an odd side had its last chroma sample doubled too


def _downsample(chroma: Tensor) -> Tensor:
    """(2, H, W) -> (2, H/2, W/2): rows averaged in pairs, columns weighted 1 2 1 about the left one."""
    rows = (chroma[:, ::2] + chroma[:, 1::2]) / 2
    padded = F.pad(rows, (1, 0), mode="replicate")
    return (padded[..., :-1:2] + 2 * padded[..., 1::2] + padded[..., 2::2]) / 4
