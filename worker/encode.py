"""Tensors into files: H.264 in mp4, with the timestamps and shape of pixels of the source.

Odd sizes: 4:2:0 shares chroma between pairs of pixels, and H.264 then crops in pairs too, so neither x264 nor a crop
written into the stream can make a 4:2:0 file of odd size. Frames of odd width or height are therefore written as
4:4:4, which comes back at exactly their size; previews and comparisons, made for browsers, are padded to even sizes.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from app.contract import RESULT_FILES
from worker.colour import from_rgb
from worker.lane import Lane
from worker.mux import Muxer, Speed, h264_stream
from worker.video import ClipInfo

_PREVIEW_WIDTH: Final = 640
_PREVIEW_CRF: Final = 22
_COMPARISON_CRF: Final = 19
_BROWSERS: Final[Speed] = "superfast"  # and a crf less: as good as "medium" to 0.3 dB, in less than half the time
_SEPARATOR: Final = 4  # pixels between the halves of a comparison


class ClipWriter:
    """Encodes frames as they come: H.264 in mp4, 8 bits, BT.709 matrix, limited range, index first.

        with ClipWriter(path, like, crf=12) as clip:
            clip.add(frame, timestamp)  # for each

    like: whose time base, rate, pixel shape, primaries and transfer the file takes. crf: x264's constant rate factor.
    full_chroma: 4:4:4 at any size, for pictures such as masked ones in which neighbouring pixels have nothing to do
    with one another. speed: x264's preset. The same frames make the same bytes. `path` appears when the file is whole,
    and only then. Encoding goes on in a thread of its own.
    """

    def __init__(
        self,
        path: Path,
        like: ClipInfo,
        *,
        crf: int,
        full_chroma: bool = False,
        speed: Speed = "medium",
    ) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._like, self._full_chroma = like, full_chroma
        self._crf, self._speed = crf, speed
        self._files = ExitStack()
        self._muxer: Muxer | None = None
        self._lane = Lane()

    def __enter__(self) -> Self:
        return self

    def add(self, image: Tensor, timestamp: int) -> None:
        """A frame (3, H, W) in [0, 1], of the first one's size, on any device. timestamp: ticks of `like`.

        The file keeps the distances of timestamps exactly and begins at zero.
        """
        if self._muxer is None:
            self._open(image, timestamp)
        frame = from_rgb(image, self._pixel_format, self._like.primaries, self._like.transfer)
        frame.pts, frame.time_base = timestamp - self._first, self._like.time_base
        self._lane.put(self._encode, frame)
        self._last = timestamp

    def _encode(self, frame: av.VideoFrame | None) -> None:
        assert self._muxer is not None
        self._muxer.mux(self._stream.encode(frame))

    def _open(self, image: Tensor, timestamp: int) -> None:
        height, width = image.shape[1:]
        self._pixel_format = "yuv444p" if self._full_chroma or height % 2 or width % 2 else "yuv420p"
        output = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        self._files.enter_context(output)
        self._stream = h264_stream(output, width, height, self._pixel_format, self._crf, self._speed, self._like)
        self._muxer = Muxer(output)
        self._first = timestamp

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._files:
                if error is None:
                    if self._muxer is None:
                        raise ValueError("there are no frames to write")
                    self._lane.put(self._encode, None)
                self._lane.__exit__(kind, error, trace)
                if self._muxer is not None and error is None:
                    self._muxer.finish(self._last - self._first + max(1, round(self._like.frame_ticks)))
            if error is None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)


def write_clip(
    path: Path,
    frames: Iterable[Tensor],
    like: ClipInfo,
    *,
    pts: Sequence[int],
    crf: int,
    full_chroma: bool = False,
) -> None:
    """A whole clip at once, as ClipWriter does it.

    Raises ValueError if frames and pts are not equally many.
    """
    with ClipWriter(path, like, crf=crf, full_chroma=full_chroma) as clip:
        for image, timestamp in zip(frames, pts, strict=True):
            clip.add(image, timestamp)


class ResultWriter:
    """Output, preview and comparison of a restored clip, frame by frame, without sound.

    The preview is for browsers: at most 640 columns, 4:2:0 at any size. So is the comparison: what the solver started
    from and the result side by side with a white line between.

    look: the source, with the time base and rate of what is written. crf: of the output. files: by the names of
    RESULT_FILES, whole once the context ends well. Frames are turned into YUV in a thread of its own.
    """

    def __init__(self, directory: Path, look: ClipInfo, crf: int) -> None:
        self.files = {name: directory / RESULT_FILES[name] for name in ("output", "preview", "comparison")}
        self._output = ClipWriter(self.files["output"], look, crf=crf)
        self._preview = ClipWriter(self.files["preview"], look, crf=_PREVIEW_CRF, speed=_BROWSERS)
        self._comparison = ClipWriter(self.files["comparison"], look, crf=_COMPARISON_CRF, speed=_BROWSERS)
        self._stack, self._lane = ExitStack(), Lane()

    def __enter__(self) -> Self:
        for part in (self._output, self._preview, self._comparison, self._lane):
            self._stack.enter_context(part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, restored: Tensor, lifted: Tensor, timestamp: int) -> None:
        """A frame of the result, and what it started from; both (3, H, W) in [0, 1], in the host's memory."""
        self._lane.put(self._write, restored, lifted, timestamp)

    def _write(self, restored: Tensor, lifted: Tensor, timestamp: int) -> None:
        self._output.add(restored, timestamp)
        self._preview.add(_even(_shrink(restored.float())), timestamp)
        self._comparison.add(_even(_beside(lifted.float(), restored.float())), timestamp)


def _shrink(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    if width <= _PREVIEW_WIDTH:
        return image
    size = (max(2, round(height * _PREVIEW_WIDTH / width)), _PREVIEW_WIDTH)
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _beside(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, torch.ones(3, left.shape[1], _SEPARATOR), right], dim=2)


def _even(image: Tensor) -> Tensor:
    """The last row and column repeated where that makes a side even."""
    height, width = image.shape[1:]
    return F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
