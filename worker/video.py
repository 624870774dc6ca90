"""Files into tensors: clips with their timestamps and shape of pixels, masks, kernels.

Frames come upright, at their own size, odd or not, in RGB of [0, 1]; 8 and 10 bits alike. Files come from strangers,
but only after app/probe.py decoded each of their frames; still, nothing but what the probe takes is opened, and no
file but the one named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final, cast

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from torch import Tensor

from app.containers import UploadKind
from worker.colour import BT709, to_rgb
from worker.mux import frames_of, opened, video_of

_CENTRED_CHROMA: Final = frozenset({"mjpeg", "mpeg1video"})
_UNTAGGED: Final = frozenset({0, 2})


@dataclass(frozen=True)
class ClipInfo:
    """A clip without its pixels.

    path: the file. width, height: upright. time_base: seconds a tick. rate: mean frames a second.
    sample_aspect_ratio: width over height of a pixel, upright. primaries, transfer: codes of H.273, carried to what is
    written, as restoring changes neither.
    """

    path: Path
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    sample_aspect_ratio: Fraction
    primaries: int
    transfer: int

    @property
    def frame_ticks(self) -> Fraction:
        """Ticks from one frame to the next, on average."""
        return 1 / (self.rate * self.time_base)


@dataclass(frozen=True, eq=False)
class Clip(ClipInfo):
    """A clip in memory.

    frames: (T, 3, H, W) float16 in [0, 1]: half the memory of float32, and its steps, at most 1/2048, still tell all
    1024 levels of a 10-bit clip apart; uint8 would not. pts: T timestamps in ticks, increasing.
    """

    frames: Tensor
    pts: list[int]


@dataclass(frozen=True)
class Beside:
    """What comes with a clip.

    mask: (1 or T, 1, H, W) of 0 and 1, known pixels 1. kernel: (h, w) with sum 1.
    """

    mask: Tensor | None = None
    kernel: Tensor | None = None


def clip_info(path: Path) -> ClipInfo:
    """What the header and the first frame of a clip say. Raises ValueError if there is no frame."""
    with opened(path) as container:
        stream = video_of(container)
        frame = next(frames_of(container, stream), None)
        if frame is None:
            raise ValueError(f"{path.name} has no frame")
        turned = _orientation(frame)[0]
        height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
        pixel = stream.sample_aspect_ratio or Fraction(1)
        return ClipInfo(
            path=path,
            width=width,
            height=height,
            time_base=_time_base(stream),
            rate=_rate(stream),
            sample_aspect_ratio=1 / pixel if turned else pixel,
            primaries=BT709 if frame.color_primaries in _UNTAGGED else frame.color_primaries,
            transfer=BT709 if frame.color_trc in _UNTAGGED else frame.color_trc,
        )


def iter_frames(path: Path) -> Iterator[tuple[Tensor, int]]:
    """Frames of a clip, in order, as (3, H, W) float32 in [0, 1], each with its timestamp in ticks.

    Timestamps increase: one that is missing or goes back is put a frame after the one before it.
    """
    return _decode(path, "clip")


def nothing() -> None:
    """Does nothing, between frames."""


def read_clip(path: Path, limit: int | None = None, each: Callable[[], None] = nothing) -> Clip:
    """A clip whole, or its first `limit` frames. each: called after every frame. Raises ValueError if there is none."""
    info = clip_info(path)
    frames = torch.empty(32, 3, info.height, info.width, dtype=torch.float16)
    pts: list[int] = []
    for frame, timestamp in islice(iter_frames(path), limit):
        if len(pts) == len(frames):
            frames = torch.cat([frames, torch.empty_like(frames)])
        frames[len(pts)] = frame
        pts.append(timestamp)
        each()
    return Clip(**vars(info), frames=frames[: len(pts)], pts=pts)


def iter_mask(path: Path) -> Iterator[Tensor]:
    """How bright each pixel of a mask is, still or moving: frames of (1, H, W) float32 in [0, 1]."""
    return (frame.mean(0, keepdim=True) for frame, _ in _decode(path, "mask"))


def read_kernel(path: Path) -> Tensor:
    """A kernel, a grey picture, as (h, w) float64 with sum 1."""
    picture, _ = next(_decode(path, "kernel"))
    grey = picture.double().mean(0)
    return grey / grey.sum()


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90_000)


def _rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _decode(path: Path, kind: UploadKind) -> Iterator[tuple[Tensor, int]]:
    with opened(path, kind) as container:
        stream = video_of(container)
        step = max(1, round(1 / (_rate(stream) * _time_base(stream))))
        centred = stream.codec_context.name in _CENTRED_CHROMA
        last: int | None = None
        for frame in frames_of(container, stream):
            after = 0 if last is None else last + step
            last = after if frame.pts is None or (last is not None and frame.pts <= last) else frame.pts
            yield _upright(to_rgb(frame, centred), frame), last


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What makes a frame upright: whether rows become columns, then which of height and width are flipped.

    A display matrix a b . / c d . moves the pixel at (x, y) to (a x + c y, b x + d y), with y downwards.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(cast(bytes, matrix), np.int32).tolist()
    turned = abs(b) > abs(a)
    return turned, (b if turned else d) < 0, (c if turned else a) < 0


def _upright(image: Tensor, frame: av.VideoFrame) -> Tensor:
    turned, flip_height, flip_width = _orientation(frame)
    if turned:
        image = image.transpose(1, 2)
    flips = [axis for axis, flip in ((1, flip_height), (2, flip_width)) if flip]
    return image.flip(flips).contiguous() if flips else image.contiguous()
