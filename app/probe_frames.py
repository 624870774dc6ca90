"""What the frames of an untrusted file show: whether they can be restored, or make a mask, and how they follow in time.

Part of the process that app/probe.py starts; see app/probe_child.py.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from app.containers import UploadKind

MAX_FRAME_RATE: Final = 120
JITTER: Final = Fraction(1, 400)  # seconds: containers that count in milliseconds round at either end
TOLERANCE: Final = 16  # levels of 255 by which a mask that was compressed may miss black and white

_HDR: Final = {16: "PQ", 18: "HLG"}
_MATRICES: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})  # those worker/colour.py knows
_FULL_RANGE: Final = 2


class Refusal(Exception):
    """Why a file is not taken."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Question:
    """A file, what it should be, and how much of it is allowed."""

    path: str
    kind: UploadKind
    max_frames: int
    max_pixels: int
    min_side: int
    max_kernel: int
    seconds: float


@dataclass
class Seen:
    """What the frames showed; `known` and `lost`: whether a mask has pixels of either kind."""

    first: av.VideoFrame | None = None
    frames: int = 0
    pts: list[int] = field(default_factory=list)
    known: bool = False
    lost: bool = False


def check_size(question: Question, width: int, height: int) -> None:
    """The header may leave the size open, as 0; the first frame does not."""
    if width * height > question.max_pixels:
        limit = question.max_pixels
        raise Refusal("resolution_too_large", f"{width}x{height} is too large: a frame may have {limit} pixels.")
    if 0 < min(width, height) < question.min_side:
        side = question.min_side
        raise Refusal("resolution_too_small", f"{width}x{height} is too small: both sides must be at least {side}.")


def check_colour(transfer: int, matrix: int) -> None:
    if transfer in _HDR:
        raise Refusal("hdr_unsupported", f"The clip is HDR ({_HDR[transfer]}); convert it to SDR first.")
    if matrix not in _MATRICES:
        raise Refusal("colour_unsupported", "The clip's colour matrix is not supported; convert it to BT.709 first.")


def look_at(frame: av.VideoFrame, seen: Seen, question: Question, form: str) -> None:
    """Count a frame, and refuse what cannot be restored or is no mask."""
    if seen.first is None:
        check_size(question, frame.width, frame.height)
        seen.first = frame
    if (frame.width, frame.height) != (seen.first.width, seen.first.height):
        before, now = f"{seen.first.width}x{seen.first.height}", f"{frame.width}x{frame.height}"
        raise Refusal("resolution_changes", f"Frame {seen.frames} is {now}, those before are {before}.")
    if question.kind == "mask":
        look_at_mask(frame, seen, form)
    elif question.kind == "kernel":
        look_at_kernel(frame, question.max_kernel)
    else:
        check_colour(frame.color_trc, frame.colorspace)
        if any(component.is_alpha for component in frame.format.components):
            raise Refusal("alpha_unsupported", "The clip has transparency, which cannot be restored.")
        if frame.interlaced_frame:
            raise Refusal("interlaced_unsupported", "The clip is interlaced; deinterlace it first.")
        if frame.side_data.get("DOVI_METADATA") or frame.side_data.get("DOVI_RPU_BUFFER"):
            raise Refusal("hdr_unsupported", "The clip is HDR (Dolby Vision); convert it to SDR first.")
    seen.frames += 1
    if frame.pts is not None:
        seen.pts.append(frame.pts)


def look_at_mask(frame: av.VideoFrame, seen: Seen, form: str) -> None:
    values = grey(frame)
    if form == "png_pipe":
        white = 255.0 if values.max() > 1 else 1.0  # known may be written as 1
        binary = bool(np.all((values == 0) | (values == white)))
    else:
        white = 255.0
        binary = bool(np.all((values <= TOLERANCE) | (values >= 255 - TOLERANCE)))
    if not binary:
        raise Refusal(
            "mask_invalid", "A mask is black where pixels are lost and white elsewhere, with nothing between."
        )
    seen.known |= bool(values.max() > white / 2)
    seen.lost |= bool(values.min() < white / 2)


def look_at_kernel(frame: av.VideoFrame, most: int) -> None:
    if max(frame.width, frame.height) > most:
        detail = f"{frame.width}x{frame.height} is too large: a kernel may have {most} pixels a side."
        raise Refusal("kernel_invalid", detail)
    values = grey(frame)
    if values.ndim == 3 and np.ptp(values, axis=2).max() > 0:
        raise Refusal("kernel_invalid", "A kernel is a grey picture; this one has colours.")
    if values.max() <= 0:
        raise Refusal("kernel_invalid", "The kernel is all black.")


def grey(frame: av.VideoFrame) -> NDArray[np.float64]:
    """How bright each pixel is, 0 to 255; -> (H, W), or (H, W, 3) where there are colours."""
    form = frame.format
    alpha = any(component.is_alpha for component in form.components)
    if alpha or form.is_rgb or form.has_palette or form.name.startswith("mono"):
        pixels: NDArray[Any] = frame.to_ndarray(format="rgba")
        if pixels[..., 3].min() < 255:
            raise Refusal("alpha_unsupported", "The mask has transparency; save it without.")
        return pixels[..., :3].astype(np.float64)
    bits = form.components[0].bits
    dtype = np.dtype("u1" if bits == 8 else ">u2" if form.is_big_endian else "<u2")
    plane = frame.planes[0]
    rows: NDArray[Any] = np.frombuffer(cast(bytes, plane), dtype).reshape(plane.height, -1)
    luma = rows[:, : plane.width].astype(np.float64)
    if frame.color_range == _FULL_RANGE or form.name.startswith("yuvj"):
        return cast(NDArray[np.float64], luma * 255 / (2**bits - 1))
    return cast(NDArray[np.float64], (luma / 2 ** (bits - 8) - 16) * 255 / 219)


def report(container: InputContainer, stream: VideoStream, seen: Seen, kind: UploadKind) -> dict[str, Any]:
    """The answer, once every frame was seen."""
    first = seen.first
    if first is None:
        raise Refusal("no_frames", "The video stream has no frames.")
    if kind == "mask" and not seen.lost:
        raise Refusal("mask_invalid", "The mask is all white: no pixel is lost.")
    if kind == "mask" and not seen.known:
        raise Refusal("mask_invalid", "The mask is all black: no pixel is known.")

    rate, seconds, variable = timing(stream, seen.pts)
    rotation = first.rotation % 360
    turned = round(rotation / 90) % 2 == 1
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    media = {
        "width": width,
        "height": height,
        "frames": seen.frames,
        "frame_rate": f"{rate.numerator}/{rate.denominator}",
        "duration_seconds": round(seconds, 6),
        "codec": stream.codec_context.codec.canonical_name,
        "pixel_format": first.format.name,
        "variable_frame_rate": variable,
        "has_audio": bool(container.streams.audio),
        "rotation": rotation,
    }
    warnings = []
    if variable:
        warnings.append("The frame rate varies; every frame keeps its timestamp.")
    if kind == "clip" and first.format.components[0].bits > 8:
        warnings.append(f"The clip has {first.format.components[0].bits} bits a channel; the restored one will have 8.")
    return {"media": media, "warnings": warnings}


def timing(stream: VideoStream, pts: list[int]) -> tuple[Fraction, float, bool]:
    """Mean frame rate, seconds from the first frame to the end of the last, and whether the rate varies."""
    nominal = stream.average_rate or stream.guessed_rate or Fraction(25)
    tick = stream.time_base or Fraction(1, 90_000)
    gaps = [after - before for before, after in pairwise(pts)]
    span = sum(gaps) * tick
    if span <= 0:
        return nominal, float(1 / nominal), False
    if len(gaps) / (span + JITTER) > MAX_FRAME_RATE:
        raise Refusal("frame_rate_too_high", f"A clip may have {MAX_FRAME_RATE} frames a second.")
    variable = (max(gaps) - min(gaps)) * tick > JITTER
    rate = max(Fraction(1, 100_000), (len(gaps) / span).limit_denominator(100_000))
    if not variable and abs(len(gaps) / nominal - span) <= JITTER:
        rate = nominal  # exact, where timestamps were rounded
    return rate, float(span + 1 / rate), variable
