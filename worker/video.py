"""Clips: files <-> tensors, with their timestamps, shape of pixels and sound.

Reading gives frames upright, at their own size, odd or not, in RGB of [0, 1]; 8 and 10 bits alike. Writing gives
H.264 in mp4 with the timestamps of the source. Files come from strangers, but only after app/probe.py decoded each
of their frames; still, nothing but video containers is opened, and no file but the one named.

Odd sizes: 4:2:0 shares chroma between pairs of pixels, and H.264 then crops in pairs too, so neither x264 nor a crop
written into the stream can make a 4:2:0 file of odd size. Frames of odd width or height are therefore written as
4:4:4, which comes back at exactly their size; previews and comparisons, made for browsers, are padded to even sizes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Final, cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.stream import VideoStream
from torch import Tensor

from app.contract import RESULT_FILES, OutputSettings
from worker.colour import BT709, from_rgb, to_rgb
from worker.mux import Muxer, Sound, frames_of, h264_stream, opened, video_of

_CENTRED_CHROMA: Final = frozenset({"mjpeg", "mpeg1video"})
_UNTAGGED: Final = frozenset({0, 2})
_PREVIEW_WIDTH: Final = 640
_PREVIEW_CRF: Final = 23
_SEPARATOR: Final = 4  # pixels between the halves of a comparison


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


# --- reading -------------------------------------------------------------------------------------------------------


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
    return _decode(path, stills=False)


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


def read_mask(path: Path) -> Tensor:
    """A mask, still or moving, as (1 or T, 1, H, W) float32 of 0 and 1; white is 1: known.

    Masks that write known as 1 instead of 255 are understood.
    """
    grey = torch.stack([frame.mean(0, keepdim=True) for frame, _ in _decode(path, stills=True)])
    white = 1.0 if grey.max() > 1.5 / 255 else 1 / 255
    return (grey > white / 2).float()


def extend_pts(pts: Sequence[int], before: int, after: int, duration: Fraction | int) -> list[int]:
    """Timestamps with `before` more ahead and `after` more behind, `duration` ticks apart."""
    ahead = [pts[0] - round(k * duration) for k in range(before, 0, -1)]
    behind = [pts[-1] + round(k * duration) for k in range(1, after + 1)]
    return [*ahead, *pts, *behind]


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90_000)


def _rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _decode(path: Path, stills: bool) -> Iterator[tuple[Tensor, int]]:
    with opened(path, stills) as container:
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


# --- writing -------------------------------------------------------------------------------------------------------


def write_clip(
    path: Path,
    frames: Iterable[Tensor],
    like: ClipInfo,
    *,
    pts: Sequence[int],
    crf: int,
    audio_from: Path | None = None,
    full_chroma: bool = False,
) -> list[str]:
    """Encode frames as they come: H.264 in mp4, 8 bits, BT.709 matrix, limited range, index first.

    frames: (3, H, W) in [0, 1], of one size, on any device. like: whose time base, rate, pixel shape, primaries and
    transfer the file takes. pts: a timestamp a frame, in ticks of like; the file keeps their distances exactly and
    begins at zero. crf: x264's constant rate factor. audio_from: a file with the same clock, whose sound is copied
    bit for bit and stays in step. full_chroma: 4:4:4 at any size, for pictures such as masked ones in which
    neighbouring pixels have nothing to do with one another. The same frames make the same bytes. `path` appears when
    the file is whole.

    Returns what had to be left out, in words. Raises ValueError if frames and pts are not equally many.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("there are no frames to write")
    height, width = first.shape[1:]
    pixel_format = "yuv444p" if full_chroma or height % 2 or width % 2 else "yuv420p"

    part = path.with_name(f".{path.name}.part")
    try:
        with ExitStack() as files:
            source = files.enter_context(opened(audio_from)) if audio_from else None
            output = files.enter_context(av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}))
            stream = h264_stream(output, width, height, pixel_format, crf, like)
            sound = Sound(source, output)
            start = pts[0] * like.time_base
            muxer = Muxer(output, sound, start if sound.start is None else min(start, sound.start))
            shift = round(muxer.start / like.time_base)
            for image, timestamp in zip(chain([first], rest), pts, strict=True):
                frame = from_rgb(image, pixel_format, like.primaries, like.transfer)
                frame.pts, frame.time_base = timestamp - shift, like.time_base
                muxer.mux(stream.encode(frame))
            muxer.mux(stream.encode(None))
            muxer.finish(pts[-1] - pts[0] + max(1, round(like.frame_ticks)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return sound.left_out


def write_preview(
    path: Path, frames: Iterable[Tensor], like: ClipInfo, *, pts: Sequence[int], audio_from: Path | None = None
) -> list[str]:
    """The clip for a browser: at most 640 columns, 4:2:0 at any size. Arguments as write_clip's."""
    small = (_even(_shrink(frame.float())) for frame in frames)
    return write_clip(path, small, like, pts=pts, crf=_PREVIEW_CRF, audio_from=audio_from)


def write_comparison(
    path: Path, left: Iterable[Tensor], right: Iterable[Tensor], like: ClipInfo, *, pts: Sequence[int], crf: int = 20
) -> None:
    """Two clips of one size side by side with a white line between, 4:2:0 at any size, without sound."""
    pairs = (_even(_beside(a.float(), b.float())) for a, b in zip(left, right, strict=True))
    write_clip(path, pairs, like, pts=pts, crf=crf)


def write_results(
    directory: Path,
    clip: Clip,
    restored: Tensor,
    lifted: Tensor,
    output: OutputSettings,
    before: int = 0,
    each: Callable[[], None] = nothing,
) -> tuple[dict[str, Path], list[str]]:
    """Output, preview and comparison of a restored clip, and what had to be left out of them.

    restored, lifted: (T, 3, H, W) in [0, 1]: the result and what it started from. before: how many of the frames lie
    before the first measured one; those, and any behind the last, are an average frame apart. each: called after every
    frame of every file.
    """
    after = len(restored) - len(clip.pts) - before
    pts = extend_pts(clip.pts, before, after, clip.frame_ticks)
    sound = clip.path if output.audio == "copy" else None
    files = {name: directory / RESULT_FILES[name] for name in ("output", "preview", "comparison")}

    def steadily(frames: Tensor) -> Iterator[Tensor]:
        for frame in frames:
            yield frame
            each()

    left_out = write_clip(files["output"], steadily(restored), clip, pts=pts, crf=output.crf, audio_from=sound)
    write_preview(files["preview"], steadily(restored), clip, pts=pts, audio_from=sound)
    write_comparison(files["comparison"], lifted, steadily(restored), clip, pts=pts)
    return files, left_out


def _shrink(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    if width <= _PREVIEW_WIDTH:
        return image
    size = (max(2, round(height * _PREVIEW_WIDTH / width)), _PREVIEW_WIDTH)
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _beside(left: Tensor, right: Tensor) -> Tensor:
    line = torch.ones(3, left.shape[1], _SEPARATOR, device=left.device)
    return torch.cat([left, line, right.to(left.device)], dim=2)


def _even(image: Tensor) -> Tensor:
    """The last row and column repeated where that makes a side even."""
    height, width = image.shape[1:]
    return F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
