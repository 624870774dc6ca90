"""Tensors into files: H.264 in mp4, with the timestamps, shape of pixels and sound of the source.

Odd sizes: 4:2:0 shares chroma between pairs of pixels, and H.264 then crops in pairs too, so neither x264 nor a crop
written into the stream can make a 4:2:0 file of odd size. Frames of odd width or height are therefore written as
4:4:4, which comes back at exactly their size; previews and comparisons, made for browsers, are padded to even sizes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Final

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from app.contract import RESULT_FILES
from app.restoration import OutputSettings
from worker.colour import from_rgb
from worker.mux import Muxer, Sound, h264_stream, opened
from worker.video import ClipInfo, nothing

_PREVIEW_WIDTH: Final = 640
_PREVIEW_CRF: Final = 23
_SEPARATOR: Final = 4  # pixels between the halves of a comparison


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
    clip: ClipInfo,
    pts: Sequence[int],
    restored: Tensor,
    lifted: Tensor,
    output: OutputSettings,
    each: Callable[[], None] = nothing,
) -> tuple[dict[str, Path], list[str]]:
    """Output, preview and comparison of a restored clip, and what had to be left out of them.

    clip: the source, with the time base and rate of what is written. pts: a timestamp for each frame. restored, lifted:
    (T, 3, H, W) in [0, 1]: the result and what it started from. each: called after every frame of every file.
    """
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
