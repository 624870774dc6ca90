"""VMAF (Li et al. 2016), by the ffmpeg that comes with imageio-ffmpeg."""

import json
import subprocess

import imageio_ffmpeg
import structlog
import torch
from torch import Tensor

log = structlog.get_logger(__name__)
CHUNK = 25  # frames that are held, two more aside
LEAST_SIDE = 32  # pixels; less than its four scales need


def vmaf(clip: Tensor, truth: Tensor) -> float:
    """Mean over frames of libvmaf's default model, 0 to 100; clips (T, 3, H, W) in [0, 1], at least 32 pixels a side.

    The model was made for 1920x1080 seen from three heights away: on small frames its values are for comparing only.
    """
    values = _scores(_bytes(clip), _bytes(truth))
    return sum(values) / len(values)


class Vmaf:
    """The same of clips of any length, frame by frame.

    A frame's value depends on its neighbours, by how much moves between them, and on nothing further away. So chunks
    that overlap by a frame on either side give what the whole would.
    """

    def __init__(self) -> None:
        self._frames: list[tuple[Tensor, Tensor]] = []
        self._values: list[float] = []  # of the clip at hand
        self._told: list[float] = []  # of those before it
        self._can = True

    def add(self, frame: Tensor, truth: Tensor) -> None:
        """The next frame and its truth, (3, H, W) in [0, 1]."""
        if self._can and min(truth.shape[-2:]) >= LEAST_SIDE:
            self._frames.append((_bytes(frame), _bytes(truth)))
        if len(self._frames) == CHUNK + 2:
            self._take(last=False)

    def values(self) -> list[float] | None:
        """Of all frames so far, after which a clip of its own begins; None where ffmpeg cannot be run here."""
        if len(self._frames) > min(1, len(self._values)):
            self._take(last=True)
        self._frames = []
        self._told += self._values
        self._values = []
        return self._told if self._can else None

    def value(self) -> float | None:
        """The mean over all frames; None where they are too small to have one, or ffmpeg cannot be run here."""
        values = self.values()
        return sum(values) / len(values) if values else None

    def add_values(self, values: list[float] | None) -> None:
        """Of frames that come next, of a clip of their own."""
        self.values()
        self._told += values or []
        self._can = self._can and values is not None

    def _take(self, last: bool) -> None:
        seen, true = (torch.stack(clip) for clip in zip(*self._frames, strict=True))
        try:
            scores = _scores(seen, true)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            log.warning("no VMAF: ffmpeg failed", reason=str(error))
            self._frames, self._can = [], False
            return
        self._values += scores[min(1, len(self._values)) : None if last else -1]
        self._frames = self._frames[-1:] if last else self._frames[-2:]


def _bytes(x: Tensor) -> Tensor:
    return (x.detach().cpu().float().clamp(0, 1) * 255).round().byte()


def _scores(clip: Tensor, truth: Tensor) -> list[float]:
    """One for each frame; clips (T, 3, H, W) of bytes.

    Both go through one pipe, each frame beside its truth: no file is left, and ffmpeg ends, should this process die.
    """
    height, width = clip.shape[-2:]
    beside = torch.cat([clip, truth], -1).permute(0, 2, 3, 1).contiguous()
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{2 * width}x{height}", "-i", "-"]
    halves = ";".join(
        f"[{side}]crop={width}:{height}:{x}:0,format=yuv444p[{side}{side}]" for side, x in (("a", 0), ("b", width))
    )
    score = f"split[a][b];{halves};[aa][bb]libvmaf=log_fmt=json:log_path=/dev/stdout"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, "-lavfi", score, "-f", "null", "-"]
    told = subprocess.run(command, input=beside.numpy().tobytes(), stdout=subprocess.PIPE, check=True).stdout
    return [frame["metrics"]["vmaf"] for frame in json.loads(told)["frames"]]
