"""Reading and writing clips: colour, size and time are what the file says, and stay so."""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import media
from worker.colour import from_rgb, to_rgb
from worker.encode import write_clip
from worker.frames import FrameWindow, clip_window, mask_window
from worker.video import Clip, clip_info, iter_frames, read_clip

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def clip_of(frames: Tensor, path: Path = Path("none"), **changes: Any) -> Clip:
    """A clip in memory as read_clip would give it, 25 frames a second."""
    fields: dict[str, Any] = {
        "path": path,
        "width": frames.shape[3],
        "height": frames.shape[2],
        "time_base": Fraction(1, 12800),
        "rate": Fraction(25),
        "sample_aspect_ratio": Fraction(1),
        "primaries": 1,
        "transfer": 1,
        "frames": frames,
        "pts": [512 * i for i in range(len(frames))],
    }
    return Clip(**(fields | changes))


def moving(width: int, height: int, frames: int) -> Tensor:
    return torch.from_numpy(np.stack([media.picture(width, height, t) for t in range(frames)])).float()


def write(path: Path, clip: Clip, crf: int = 0) -> None:
    write_clip(path, clip.frames, clip, pts=clip.pts, crf=crf)


def levels(a: Tensor, b: Tensor) -> float:
    """Mean difference in steps of 8 bits."""
    return float((a.double() - b.double()).abs().mean() * 255)


# --- colour --------------------------------------------------------------------------------------------------------


def coded(rgb: NDArray[np.float64], form: str, matrix: int, full: bool) -> av.VideoFrame:
    """YUV samples of a picture after H.273, in float64 and numpy alone; chroma on the left column, between the rows."""
    kr, kb = WEIGHTS[matrix]
    bits = 10 if "10" in form else 8
    luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    u, v = (rgb[2] - luma) / (2 - 2 * kb), (rgb[0] - luma) / (2 - 2 * kr)
    frame = av.VideoFrame(rgb.shape[2], rgb.shape[1], form)
    for plane, values, chroma in zip(frame.planes, (luma, u, v), (False, True, True), strict=True):
        height, width = values.shape
        rows = np.arange(plane.height) * 2 + 0.5 if plane.height < height else np.arange(plane.height)
        columns = np.arange(plane.width) * 2 if plane.width < width else np.arange(plane.width)
        sampled = at(values, rows, columns)
        if full:
            code = sampled * (2**bits - 1) + (2 ** (bits - 1) if chroma else 0)
        else:
            code = (sampled * (224 if chroma else 219) + (128 if chroma else 16)) * 2 ** (bits - 8)
        dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
        buffer = np.zeros((plane.height, plane.line_size // dtype.itemsize), dtype)
        buffer[:, : plane.width] = np.clip(np.round(code), 0, 2**bits - 1)
        plane.update(buffer.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def decoded(frame: av.VideoFrame, matrix: int, full: bool) -> NDArray[np.float64]:
    """The way back, as independently."""
    kr, kb = WEIGHTS[matrix]
    bits = 10 if "10" in frame.format.name else 8
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    planes = []
    for plane, chroma in zip(frame.planes, (False, True, True), strict=True):
        rows = np.frombuffer(cast(bytes, plane), dtype).reshape(plane.height, -1)[:, : plane.width].astype(np.float64)
        if full:
            values = (rows - (2 ** (bits - 1) if chroma else 0)) / (2**bits - 1)
        else:
            values = (rows / 2 ** (bits - 8) - (128 if chroma else 16)) / (224 if chroma else 219)
        y = np.arange(frame.height) / 2 - 0.25 if plane.height < frame.height else np.arange(frame.height)
        x = np.arange(frame.width) / 2 if plane.width < frame.width else np.arange(frame.width)
        planes.append(at(values, y, x))
    luma, u, v = planes
    red, blue = luma + (2 - 2 * kr) * v, luma + (2 - 2 * kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue]), 0, 1)


def at(values: NDArray[np.float64], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    """Values at fractional places, linear, edges repeated."""
    down = np.stack([np.interp(rows, np.arange(values.shape[0]), column) for column in values.T], axis=1)
    return np.stack([np.interp(columns, np.arange(values.shape[1]), row) for row in down])


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_colours_are_those_of_the_standard(form: str, matrix: int, full: bool) -> None:
    """Against float64: what to_rgb adds is under a thousandth of a level; with rounding and chroma, under one."""
    for width, height in ((96, 64), (63, 47)):
        rgb = media.picture(width, height)
        frame = coded(rgb, form, matrix, full)
        got = to_rgb(frame)
        assert levels(got, torch.from_numpy(decoded(frame, matrix, full))) < 1e-3
        assert levels(got, torch.from_numpy(rgb)) < 1


def test_ten_bits_are_kept() -> None:
    """A ramp of all 10-bit greys comes out in as many values, in float16 too."""
    ramp = np.tile(np.arange(64, 940) / 1.0, (4, 1))
    frame = av.VideoFrame(876, 4, "yuv444p10le")
    for plane, values in zip(frame.planes, (ramp, np.full_like(ramp, 512), np.full_like(ramp, 512)), strict=True):
        buffer = np.zeros((plane.height, plane.line_size // 2), "<u2")
        buffer[:, : plane.width] = values
        plane.update(buffer.tobytes())
    frame.colorspace, frame.color_range = 1, 1
    assert len(torch.unique(to_rgb(frame)[0].half())) == 876


def test_untagged_colour_follows_the_size() -> None:
    for size, matrix in (((96, 64), 6), ((1280, 64), 1), ((96, 720), 1)):
        frame = coded(media.picture(*size), "yuv444p", matrix, full=False)
        frame.colorspace, frame.color_range = 2, 0
        assert levels(to_rgb(frame), torch.from_numpy(decoded(frame, matrix, full=False))) < 1e-3


def test_a_matrix_that_is_none_is_refused() -> None:
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace = 8
    with pytest.raises(ValueError, match="colour matrix 8"):
        to_rgb(frame)


@pytest.mark.parametrize("form", ["rgb24", "rgba", "gbrp", "rgb48le"])
def test_rgb_needs_no_matrix(form: str) -> None:
    deep = "48" in form
    rgb = (media.picture(64, 48) * (65535 if deep else 255)).round()
    pixels = rgb.transpose(1, 2, 0).astype(np.uint16 if deep else np.uint8)
    if form == "rgba":
        pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 7)], axis=2)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=form)
    assert levels(to_rgb(frame), torch.from_numpy(rgb / (65535 if deep else 255))) < 1e-3


@pytest.mark.parametrize(("form", "planar"), [("yuyv422", "yuv422p"), ("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
def test_packed_samples_are_the_same_samples(form: str, planar: str) -> None:
    frame = coded(media.picture(96, 64), planar, 1, full=False)
    assert levels(to_rgb(frame.reformat(format=form)), to_rgb(frame)) < 1e-3


def test_jpeg_puts_chroma_in_the_middle() -> None:
    """A picture whose chroma is a horizontal ramp, taken between two columns."""
    frame = av.VideoFrame(64, 2, "yuvj420p")
    for plane, row in zip(frame.planes, (np.full(64, 128), np.full(32, 128), 64 + 4 * np.arange(32)), strict=True):
        buffer = np.zeros((plane.height, plane.line_size), np.uint8)
        buffer[:, : plane.width] = row
        plane.update(buffer.tobytes())
    left, middle = to_rgb(frame), to_rgb(frame, centred=True)
    step = float(left[0, 0, 11] - left[0, 0, 10])
    torch.testing.assert_close(left[0, 0, 10:50] - middle[0, 0, 10:50], torch.full((40,), step / 2))


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p"])
def test_writing_inverts_reading(form: str) -> None:
    rgb = torch.from_numpy(media.picture(96, 64)).float()
    frame = from_rgb(rgb, form)
    assert levels(to_rgb(frame), rgb) < 1
    assert levels(to_rgb(frame), torch.from_numpy(decoded(frame, 1, full=False))) < 1e-3


@pytest.mark.parametrize("size", [(256, 160), (1280, 720)])
def test_colours_survive_a_file(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = clip_of(moving(*size, 3))
    write(tmp_path / "out.mp4", clip)
    assert levels(read_clip(tmp_path / "out.mp4").frames, clip.frames) < 1


def test_output_is_tagged(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", clip_of(moving(64, 48, 2)))
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert context.name == "h264"


def test_primaries_and_transfer_are_carried(tmp_path: Path) -> None:
    """An old camera's colours stay its own; only the matrix is new."""
    tags = {"colorspace": 6, "color_primaries": 6, "color_trc": 6}
    clip = read_clip(media.clip(tmp_path / "in.mp4", tags=tags))
    write(tmp_path / "out.mp4", clip)
    assert (clip_info(tmp_path / "out.mp4").primaries, clip_info(tmp_path / "out.mp4").transfer) == (6, 6)
    assert levels(read_clip(tmp_path / "out.mp4").frames, clip.frames) < 1


# --- size and shape ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48), (64, 48)])
def test_sizes_come_back_exactly(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = clip_of(moving(*size, 4))
    write(tmp_path / "out.mp4", clip)
    back = read_clip(tmp_path / "out.mp4")
    assert back.frames.shape == clip.frames.shape
    assert levels(back.frames, clip.frames) < 1


def test_odd_sizes_are_read_whole(tmp_path: Path) -> None:
    clip = read_clip(media.clip(tmp_path / "odd.mkv", size=(63, 47), codec="ffv1"))
    assert clip.frames.shape == (12, 3, 47, 63)
    assert levels(clip.frames, moving(63, 47, 12)) < 2.5


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    upright = media.picture(48, 64) if rotation % 180 else media.picture(64, 48)
    stored = np.rot90(upright, k=-rotation // 90, axes=(1, 2))
    path = media.clip(tmp_path / "in.mp4", pictures=lambda _: stored, rotation=rotation, pixel_shape=Fraction(4, 3))
    clip = read_clip(path, limit=1)
    assert levels(clip.frames[0], torch.from_numpy(upright)) < 3
    assert (clip.width, clip.height) == (upright.shape[2], upright.shape[1])
    assert clip.sample_aspect_ratio == (Fraction(3, 4) if rotation % 180 else Fraction(4, 3))


def test_a_mirrored_clip_is_mirrored_back(tmp_path: Path) -> None:
    """As front cameras record it."""
    plain = media.clip(tmp_path / "plain.mp4", frames=2)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "mirrored.mp4"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.set_display_rotation(0, hflip=True)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    torch.testing.assert_close(read_clip(tmp_path / "mirrored.mp4").frames, read_clip(plain).frames.flip(3))


def test_pixel_shape_is_carried(tmp_path: Path) -> None:
    clip = read_clip(media.clip(tmp_path / "in.mp4", pixel_shape=Fraction(16, 15)))
    write(tmp_path / "out.mp4", clip)
    assert clip_info(tmp_path / "out.mp4").sample_aspect_ratio == Fraction(16, 15)


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("in.mov", "prores_ks", "yuv422p10le"),
        ("in.mkv", "libx265", "yuv420p10le"),
        ("in.webm", "libvpx-vp9", "yuv420p"),
        ("in.avi", "mjpeg", "yuvj420p"),
        ("in.avi", "rawvideo", "yuyv422"),
        ("in.ts", "mpeg2video", "yuv420p"),
    ],
)
def test_many_kinds_of_file_are_read(tmp_path: Path, name: str, codec: str, form: str) -> None:
    path = media.clip(tmp_path / name, codec=codec, pixel_format=form, size=(96, 64), frames=6)
    clip = read_clip(path)
    assert clip.frames.shape == (6, 3, 64, 96)
    assert levels(clip.frames, moving(96, 64, 6)) < 8  # lossy encoders at their own settings
    assert clip.frames.dtype == torch.float16


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mp4", frames=40)
    assert len(read_clip(path).pts) == len(read_clip(path).frames) == 40
    assert len(read_clip(path, limit=3).frames) == 3
    torch.testing.assert_close(
        read_clip(path, limit=3).frames[2].float(), [f for f, _ in iter_frames(path)][2], atol=1e-3, rtol=0
    )


# --- time ----------------------------------------------------------------------------------------------------------

UNEVEN = [0, 33, 67, 150, 151, 300, 340, 500, 501, 502]


@pytest.mark.parametrize("begin", [0, 1400])
def test_uneven_timestamps_are_kept(tmp_path: Path, begin: int) -> None:
    """To the tick, from Matroska's milliseconds into mp4; the file begins at zero and ends when the clip does."""
    pts = [begin + t for t in UNEVEN]
    path = media.clip(tmp_path / "in.mkv", pts=pts, time_base=Fraction(1, 1000))
    clip = read_clip(path)
    assert [t * clip.time_base for t in clip.pts] == [Fraction(t, 1000) for t in pts]
    write(tmp_path / "out.mp4", clip)
    back = read_clip(tmp_path / "out.mp4")
    assert [t * back.time_base for t in back.pts] == [Fraction(t, 1000) for t in UNEVEN]
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        expected = Fraction(502, 1000) + round(clip.frame_ticks) * clip.time_base
        assert stream.duration * stream.time_base == expected


@pytest.mark.parametrize(
    "time_base", [Fraction(1001, 30_000), Fraction(1, 90_000), Fraction(1, 25), Fraction(1, 10**9)]
)
def test_every_time_base_is_kept(tmp_path: Path, time_base: Fraction) -> None:
    step = max(1, round(Fraction(1, 25) / time_base))
    clip = clip_of(
        moving(64, 48, 8), time_base=time_base, pts=[step * i for i in range(8)], rate=1 / (step * time_base)
    )
    write(tmp_path / "out.mp4", clip)
    back = read_clip(tmp_path / "out.mp4")
    assert [t * back.time_base for t in back.pts] == [t * time_base for t in clip.pts]


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"preset": "medium"}), ("mpeg4", {"bf": "2"})])
def test_avi_is_evenly_timed_though_frames_are_reordered(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    path = media.clip(tmp_path / "in.avi", codec=codec, options=options, frames=20)
    assert read_clip(path).pts == list(range(20))


def test_frames_before_the_first_are_shown(tmp_path: Path) -> None:
    """Timestamps below zero move the whole clip, not out of it."""
    clip = clip_of(moving(64, 48, 7))
    write_clip(tmp_path / "out.mp4", clip.frames, clip, pts=[512 * i for i in range(-2, 5)], crf=20)
    assert read_clip(tmp_path / "out.mp4").pts == [512 * i for i in range(7)]


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_playlist_is_not_opened(tmp_path: Path) -> None:
    media.clip(tmp_path / "secret.mp4")
    (tmp_path / "in.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ValueError, match="is no clip"):
        read_clip(tmp_path / "in.mp4")


def test_the_name_of_a_file_means_nothing(tmp_path: Path) -> None:
    """The worker opens by the first bytes, as the probe does."""
    media.clip(tmp_path / "clip.mp4")
    renamed = (tmp_path / "clip.mp4").rename(tmp_path / "clip.ts")
    assert len(read_clip(renamed).frames) > 0


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("white", [1, 255])
def test_a_still_mask(tmp_path: Path, white: int) -> None:
    pixels = np.zeros((47, 63), np.uint8)
    pixels[10:20, 5:] = white
    mask = mask_window(media.still(tmp_path / "mask", pixels, "gray"))
    assert isinstance(mask, Tensor)
    assert mask.shape == (1, 1, 47, 63) and mask.dtype == torch.float32
    assert np.array_equal(mask[0, 0].numpy(), pixels > 0)


def test_a_jpeg_mask(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[16:32, 8:] = 255
    mask = mask_window(media.still(tmp_path / "mask", pixels, "yuvj420p", codec="mjpeg"))
    assert isinstance(mask, Tensor)
    assert np.array_equal(mask[0, 0].numpy(), pixels > 0)


def test_a_moving_mask(tmp_path: Path) -> None:
    """Also where a frame is all black."""

    def hole(t: int) -> NDArray[np.float64]:
        picture = np.ones((3, 48, 64)) * (t != 3)
        picture[:, 16:32, 4 * t : 4 * t + 16] = 0
        return picture

    mask = mask_window(media.clip(tmp_path / "mask.mp4", pictures=hole, frames=5))
    assert isinstance(mask, FrameWindow)
    expected = np.stack([hole(t)[:1] for t in range(5)])
    assert np.array_equal(mask.take(range(2)).numpy(), expected[:2])
    assert np.array_equal(mask.take(range(1, 5)).numpy(), expected[1:])


# --- frames as they are needed -------------------------------------------------------------------------------------


def test_a_window_moves_on_and_forgets(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mp4", frames=12)
    whole = read_clip(path).frames
    read = []
    window = clip_window(path, lambda: read.append(1))
    assert torch.equal(window.take(range(4)), whole[:4])
    assert torch.equal(window.take(range(2, 7)), whole[2:7])
    assert len(read) <= 7 + 5, "it reads ahead no further than what was taken last"
    assert torch.equal(window.take(range(9, 12)), whole[9:])
    with pytest.raises(ValueError, match="cannot be read"):
        window.take(range(8, 10))
    with pytest.raises(ValueError, match="cannot be read"):
        window.take(range(10, 13))
