"""Every kind of file that cannot be restored is refused by its own name; every other one is described as it is."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.contract import MediaInfo
from app.probe import Refused, probe
from app.settings import Settings
from tests import media
from tests.processes import alive, descendants, wait_until


def settings(**changes: Any) -> Settings:
    return Settings(**changes)


def probe_clip(path: Path, settings: Settings) -> tuple[MediaInfo, list[str]]:
    return probe(path, settings, "clip")


def probe_mask(path: Path, settings: Settings) -> MediaInfo:
    return probe(path, settings, "mask")[0]


def refusal(path: Path, **changes: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        probe_clip(path, settings(**changes))
    assert refused.value.status == (415 if refused.value.code.startswith("unsupported_") else 422)
    return refused.value


def mask_refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(Refused) as refused:
        probe_mask(path, settings(**changes))
    return refused.value.code


# --- what is taken -------------------------------------------------------------------------------------------------


def test_a_plain_clip(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "clip.mp4", size=(64, 48), frames=25, sound="aac")
    info, warnings = probe_clip(path, settings())
    assert warnings == []
    assert info == MediaInfo(
        width=64,
        height=48,
        frames=25,
        frame_rate="25/1",
        duration_seconds=1.0,
        codec="h264",
        pixel_format="yuv420p",
        has_audio=True,
    )


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("in.mov", "prores_ks", "yuv422p10le"),
        ("in.mp4", "libx265", "yuv420p"),
        ("in.mp4", "libsvtav1", "yuv420p"),
        ("in.webm", "libvpx-vp9", "yuv420p"),
        ("in.mkv", "ffv1", "yuv444p"),
        ("in.avi", "mpeg4", "yuv420p"),
        ("in.ts", "mpeg2video", "yuv420p"),
    ],
)
def test_every_container_is_opened_whatever_its_name(tmp_path: Path, name: str, codec: str, form: str) -> None:
    path = media.clip(tmp_path / name, codec=codec, pixel_format=form, size=(96, 64), frames=10)
    info, _ = probe_clip(path.rename(tmp_path / "up_01k2m3n4p5q6r7s8t9v0w1x2y3"), settings())
    assert (info.width, info.height, info.frames, info.pixel_format) == (96, 64, 10, form)
    assert Fraction(info.frame_rate) == 25
    assert info.duration_seconds == pytest.approx(0.4, abs=2e-3)


def test_rates_are_exact_where_timestamps_are_rounded(tmp_path: Path) -> None:
    """Matroska counts milliseconds."""
    pts = [round(i * 1001 / 30) for i in range(30)]
    info, _ = probe_clip(media.clip(tmp_path / "in.mkv", rate=30, pts=pts, time_base=Fraction(1, 1000)), settings())
    assert not info.variable_frame_rate
    assert float(Fraction(info.frame_rate)) == pytest.approx(30 / 1.001, rel=1e-3)


def test_a_varying_rate_is_told(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mkv", pts=[0, 33, 67, 150, 151, 300], time_base=Fraction(1, 1000))
    info, warnings = probe_clip(path, settings())
    assert info.variable_frame_rate
    assert float(Fraction(info.frame_rate)) == pytest.approx(5 / 0.3, rel=1e-4)
    assert any("rate varies" in warning for warning in warnings)


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"preset": "medium"}), ("mpeg4", {"bf": "2"})])
def test_reordered_frames_in_avi_are_no_varying_rate(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    info, warnings = probe_clip(media.clip(tmp_path / "in.avi", codec=codec, options=options, frames=20), settings())
    assert (info.frames, info.frame_rate, info.variable_frame_rate, warnings) == (20, "25/1", False, [])


def test_dropped_frames_are_a_varying_rate(tmp_path: Path) -> None:
    info, _ = probe_clip(media.clip(tmp_path / "in.mp4", pts=[0, 1, 2, 4, 5, 6]), settings())
    assert info.variable_frame_rate


def test_odd_sizes_are_taken(tmp_path: Path) -> None:
    info, _ = probe_clip(media.clip(tmp_path / "in.mkv", size=(63, 47), codec="ffv1"), settings())
    assert (info.width, info.height) == (63, 47)


def test_sizes_are_upright(tmp_path: Path) -> None:
    info, _ = probe_clip(media.clip(tmp_path / "in.mp4", rotation=90, pixel_shape=Fraction(4, 3)), settings())
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    info, _ = probe_clip(media.clip(tmp_path / "in.mp4", rotation=180), settings())
    assert (info.width, info.height, info.rotation) == (64, 48, 180)


def test_ten_bits_are_taken(tmp_path: Path) -> None:
    info, warnings = probe_clip(media.clip(tmp_path / "in.mp4", pixel_format="yuv420p10le"), settings())
    assert info.pixel_format == "yuv420p10le"
    assert any("10 bits" in warning for warning in warnings)


def test_a_cover_picture_is_no_second_video(tmp_path: Path) -> None:
    plain = media.clip(tmp_path / "plain.mp4", frames=5)
    picture = media.still(tmp_path / "cover.png", np.zeros((16, 16, 3), np.uint8), "rgb24")
    path = tmp_path / "covered.mp4"
    with (
        av.open(str(plain)) as source,
        av.open(str(picture), format="png_pipe") as cover,
        av.open(str(path), "w") as output,
    ):
        copies = [output.add_stream_from_template(s.streams.video[0], opaque=True) for s in (source, cover)]
        copies[1].disposition = av.stream.Disposition.attached_pic
        for container, copy in zip((source, cover), copies, strict=True):
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    output.mux(packet)
    info, _ = probe_clip(path, settings())
    assert (info.frames, info.codec) == (5, "h264")


def test_texts_that_are_no_utf_8_do_not_matter(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mkv")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert probe_clip(path, settings())[0].frames == 12


# --- files that are none -------------------------------------------------------------------------------------------


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    assert refusal(tmp_path / "clip.mp4").code == "truncated_file"


def test_without_its_index(tmp_path: Path) -> None:
    """An mp4 whose index would have come last."""
    source = media.clip(tmp_path / "in.mp4", movflags="")
    assert refusal(media.cut_in_half(source, tmp_path / "cut.mp4")).code == "truncated_file"


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(50_000))


def html(path: Path) -> None:
    path.write_text("<!doctype html><html><body>404</body></html>" * 20)


def png(path: Path) -> None:
    media.still(path, np.zeros((48, 64, 3), np.uint8), "rgb24")


def jpeg(path: Path) -> None:
    media.still(path, np.zeros((48, 64), np.uint8), "yuvj420p", codec="mjpeg")


def gif(path: Path) -> None:
    media.clip(path.with_suffix(".gif"), codec="gif", pixel_format="rgb8").rename(path)


def avif(path: Path) -> None:
    media.clip(path.with_suffix(".avif"), codec="libsvtav1", frames=1, size=(64, 64)).rename(path)


def zip_archive(path: Path) -> None:
    media.zip_archive(path)


def playlist(path: Path) -> None:
    media.clip(path.with_name("other.ts"))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")


def ffconcat(path: Path) -> None:
    media.clip(path.with_name("other.mp4"))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def wave(path: Path) -> None:
    path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(400))


@pytest.mark.parametrize("make", [random_bytes, html, png, jpeg, gif, avif, zip_archive, playlist, ffconcat, wave])
def test_other_files_under_the_name_of_a_video(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "clip.mp4")
    assert refusal(tmp_path / "clip.mp4").code == "unsupported_container"


def test_sound_alone(tmp_path: Path) -> None:
    assert refusal(media.audio_only(tmp_path / "in.mp4")).code == "no_video_stream"


def test_a_video_stream_without_frames(tmp_path: Path) -> None:
    assert refusal(media.no_frames(tmp_path / "in.mp4")).code == "no_frames"


def test_two_video_streams(tmp_path: Path) -> None:
    assert refusal(media.two_videos(tmp_path / "in.mkv")).code == "ambiguous_video_stream"


# --- files that are damaged ----------------------------------------------------------------------------------------


def noisy(t: int) -> NDArray[np.float64]:
    """Pictures that take some bytes."""
    grain = np.random.default_rng(t).normal(0, 0.05, (3, 96, 128))
    return np.clip(media.picture(128, 96, t) + grain, 0, 1)


def seventy_two(path: Path, codec: str = "libx264") -> Path:
    return media.clip(
        path, size=(128, 96), frames=72, pictures=noisy, codec=codec, options={"crf": "8"} if codec == "libx264" else {}
    )


def frame_named(refused: Refused) -> int:
    assert refused.code == "corrupt_stream"
    return int(refused.detail.removeprefix("Frame ").split()[0].rstrip(","))


def test_an_mp4_cut_in_half(tmp_path: Path) -> None:
    """It opens, and its index still claims every frame."""
    cut = media.cut_in_half(seventy_two(tmp_path / "in.mp4"), tmp_path / "cut.mp4")
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 72
    refused = refusal(cut)
    assert 20 < frame_named(refused) < 50
    assert "of the 72" in refused.detail


@pytest.mark.parametrize(
    ("name", "codec"), [("in.mkv", "libx264"), ("in.webm", "libvpx-vp9"), ("in.avi", "mpeg4"), ("in.ts", "libx264")]
)
def test_other_containers_cut_in_half(tmp_path: Path, name: str, codec: str) -> None:
    cut = media.cut_in_half(seventy_two(tmp_path / name, codec), tmp_path / f"cut_{name}")
    assert 10 < frame_named(refusal(cut)) < 50


def test_an_avi_cut_between_frames(tmp_path: Path) -> None:
    content = seventy_two(tmp_path / "in.avi", "mpeg4").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: content.index(b"00dc", len(content) // 2)])
    assert 10 < frame_named(refusal(cut)) < 60


@pytest.mark.parametrize(
    ("name", "codec"), [("in.mp4", "libx264"), ("in.mp4", "libx265"), ("in.mkv", "libx264"), ("in.ts", "libx264")]
)
def test_corrupt_in_the_middle(tmp_path: Path, name: str, codec: str) -> None:
    holed = media.holed(seventy_two(tmp_path / name, codec), tmp_path / f"holed_{name}")
    assert 0 < frame_named(refusal(holed)) < 50


def test_the_first_bad_frame_is_named(tmp_path: Path) -> None:
    """Intra-coded pictures have nothing to do with one another: the one with the hole is the bad one."""
    path = media.clip(
        tmp_path / "in.mkv",
        size=(128, 96),
        frames=20,
        pictures=noisy,
        codec="ffv1",
        options={"level": "3", "slicecrc": "1"},
    )
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert packets[13].pos is not None
    content = bytearray(path.read_bytes())
    begin = packets[13].pos + packets[13].size // 2
    content[begin : begin + 8] = bytes(8)
    path.write_bytes(content)
    assert frame_named(refusal(path)) == 13


# --- files that are too much ---------------------------------------------------------------------------------------


def test_too_many_frames(tmp_path: Path) -> None:
    """None is decoded beyond the first too many: 144,000 frames are refused as fast as 1,001."""
    path = media.many_frames(tmp_path / "in.mp4", 144_000)
    begun = time.monotonic()
    assert refusal(path).code == "too_many_frames"
    assert time.monotonic() - begun < 15
    assert refusal(media.many_frames(tmp_path / "in.mp4", 1001)).code == "too_many_frames"
    assert probe_clip(media.many_frames(tmp_path / "in.mp4", 1000), settings())[0].frames == 1000


def test_too_large_frames(tmp_path: Path) -> None:
    path = media.huge_frame(tmp_path / "in.mp4")
    assert path.stat().st_size < 500_000
    refused = refusal(path)
    assert refused.code == "resolution_too_large"
    assert "15360x8640" in refused.detail


def test_too_large_frames_without_a_header_that_says_so(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.avi", size=(640, 480), codec="mjpeg", pixel_format="yuvj420p", frames=2)
    assert refusal(path, max_pixels=64 * 48).code == "resolution_too_large"
    path = media.clip(tmp_path / "in.ts", size=(640, 480), frames=2)
    assert refusal(path, max_pixels=64 * 48).code == "resolution_too_large"


def test_the_largest_frame_allowed(tmp_path: Path) -> None:
    """Though its codec counts in blocks of 16."""
    path = media.clip(tmp_path / "in.mp4", size=(100, 100), frames=2)
    assert probe_clip(path, settings(max_pixels=10_000))[0].width == 100
    assert refusal(path, max_pixels=9_999).code == "resolution_too_large"


def test_too_small_frames(tmp_path: Path) -> None:
    assert refusal(media.clip(tmp_path / "in.mkv", size=(64, 14), codec="ffv1")).code == "resolution_too_small"


def test_resolution_that_changes(tmp_path: Path) -> None:
    refused = refusal(media.resolution_change(tmp_path / "in.ts"))
    assert refused.code == "resolution_changes"
    assert refused.detail == "Frame 12 is 96x64, those before are 64x48."


@pytest.mark.parametrize(("rate", "taken"), [(120, True), (121, False), (240, False)])
def test_frame_rates(tmp_path: Path, rate: int, taken: bool) -> None:
    path = media.clip(tmp_path / "in.mp4", rate=rate, frames=100)
    if taken:
        assert probe_clip(path, settings())[0].frame_rate == "120/1"
    else:
        assert refusal(path).code == "frame_rate_too_high"


def test_a_clip_that_takes_too_long(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mp4", size=(640, 480), frames=60)
    assert refusal(path, probe_seconds=0.05).code == "probe_timeout"


# --- colours and structure that restoring would flatten ------------------------------------------------------------


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_high_dynamic_range(tmp_path: Path, transfer: int, name: str, codec: str) -> None:
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9}
    path = media.clip(tmp_path / "in.mp4", pixel_format="yuv420p10le", codec=codec, tags=tags)
    refused = refusal(path)
    assert refused.code == "hdr_unsupported"
    assert name in refused.detail


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("in.mkv", "ffv1", "yuva420p"), ("in.mov", "png", "rgba"), ("in.webm", "libvpx-vp9", "yuva420p")],
)
def test_transparency(tmp_path: Path, name: str, codec: str, form: str) -> None:
    assert refusal(media.clip(tmp_path / name, codec=codec, pixel_format=form)).code == "alpha_unsupported"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("in.mp4", "libx264", {"x264-params": "tff=1"}), ("in.ts", "mpeg2video", {"flags": "+ildct+ilme"})],
)
def test_interlacing(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = media.clip(tmp_path / name, codec=codec, size=(64, 64), options=options)
    assert refusal(path).code == "interlaced_unsupported"


def test_colour_that_is_no_weighted_sum(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mp4", pixel_format="yuv444p", tags={"colorspace": 8})
    assert refusal(path).code == "colour_unsupported"


# --- the process ---------------------------------------------------------------------------------------------------


def test_the_decoder_imports_from_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working directory nor the service's environment reaches it."""
    (tmp_path / "av.py").write_text("raise SystemExit('imported from the working directory')")
    path = media.clip(tmp_path / "in.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe_clip(Path("in.mp4"), settings())[0].frames == 12
    assert set(tmp_path.iterdir()) == {path, tmp_path / "av.py"}


def test_the_decoder_is_confined(tmp_path: Path) -> None:
    """One file can be open, nothing written, no more than 4 GiB used, no process or thread started."""
    attempts = """
import os
import sys
import threading
from app.probe_child import confine
confine(5)
held = open(sys.argv[1])
for attempt in (lambda: open(sys.argv[1]), lambda: bytearray(5 << 30)):
    try:
        attempt()
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
held.close()
try:
    with open(sys.argv[2], "wb", buffering=0) as file:
        file.write(b"x")
except OSError as error:
    print(type(error).__name__)
if os.getuid() == 0:
    os.setuid(65534)  # as root may exceed the number of processes
for attempt in (os.fork, threading.Thread(target=print).start):
    try:
        attempt()
    except (OSError, RuntimeError) as error:
        print(type(error).__name__)
"""
    (tmp_path / "in").touch()
    arguments = [sys.executable, "-c", attempts, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OSError", "MemoryError", "OSError", "BlockingIOError", "RuntimeError"]


def test_the_decoder_dies_with_the_service(tmp_path: Path) -> None:
    """Held up by a pipe that it waits to read."""
    path = tmp_path / "in.mp4"
    os.mkfifo(path)
    service = "import sys, pathlib, app.probe as p; p.probe(pathlib.Path(sys.argv[1]), p.Settings(), 'clip')"
    with subprocess.Popen([sys.executable, "-c", service, str(path)]) as process:
        wait_until(lambda: any(confined(pid) for pid in descendants(process.pid)))
        [child] = descendants(process.pid)
        process.kill()
    wait_until(lambda: not alive(child), seconds=5)


def confined(pid: int) -> bool:
    """It may start no process: what comes next is the file."""
    return re.search(r"^Max processes +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE) is not None


def test_a_fault_of_ours_is_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No such file"):
        probe_clip(tmp_path / "absent.mp4", settings())


# --- masks ---------------------------------------------------------------------------------------------------------


def holed_mask(t: int = 0) -> NDArray[np.float64]:
    picture = np.ones((3, 48, 64))
    picture[:, 16:32, 4 * t : 4 * t + 16] = 0
    return picture


def pixels(white: int = 255) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = (holed_mask()[0] * white).astype(np.uint8)
    return mask


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("form", ["gray", "rgb24", "rgba"])
def test_a_png_mask(tmp_path: Path, white: int, form: str) -> None:
    mask: NDArray[np.uint8] = pixels(white)
    if form != "gray":
        mask = np.repeat(mask[..., None], 4 if form == "rgba" else 3, axis=2)
    if form == "rgba":
        mask[..., 3] = 255
    info = probe_mask(media.still(tmp_path / "mask", mask, form), settings())
    assert (info.width, info.height, info.frames) == (64, 48, 1)


def test_a_jpeg_mask(tmp_path: Path) -> None:
    path = media.still(tmp_path / "mask", pixels(), "yuvj420p", codec="mjpeg")
    assert probe_mask(path, settings()).codec == "mjpeg"


def test_a_moving_mask(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "mask.mp4", pictures=holed_mask, frames=6, options={"crf": "4"})
    assert probe_mask(path, settings()).frames == 6


@pytest.mark.parametrize(
    "mask",
    [np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint8), np.full((48, 64), 128, np.uint8), pixels() - 1],
    ids=["white", "black", "grey", "almost"],
)
def test_a_mask_must_be_black_and_white(tmp_path: Path, mask: NDArray[np.uint8]) -> None:
    assert mask_refusal(media.still(tmp_path / "mask.png", mask, "gray")) == "mask_invalid"


def test_a_coloured_mask_is_none(tmp_path: Path) -> None:
    mask = np.repeat(pixels()[..., None], 3, axis=2)
    mask[:8, :, 1] = 60
    assert mask_refusal(media.still(tmp_path / "mask.png", mask, "rgb24")) == "mask_invalid"


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    assert mask_refusal(media.clip(tmp_path / "mask.mp4")) == "mask_invalid"


def test_a_transparent_mask_is_ambiguous(tmp_path: Path) -> None:
    mask = np.repeat(pixels()[..., None], 4, axis=2)
    assert mask_refusal(media.still(tmp_path / "mask.png", mask, "rgba")) == "alpha_unsupported"


def test_a_mask_cut_in_half(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 2, (480, 640)).astype(np.uint8) * 255
    for name, codec, form in (("mask.png", "png", "gray"), ("mask.jpg", "mjpeg", "yuvj420p")):
        whole = media.still(tmp_path / name, grain, form, codec=codec)
        assert mask_refusal(media.cut_in_half(whole, tmp_path / f"cut_{name}")) in {"corrupt_stream", "truncated_file"}


def test_masks_are_guarded_like_clips(tmp_path: Path) -> None:
    path = media.still(tmp_path / "mask.png", np.zeros((4000, 4000), np.uint8), "gray")
    assert mask_refusal(path, max_pixels=1_000_000) == "resolution_too_large"
    gif(tmp_path / "mask.mp4")
    assert mask_refusal(tmp_path / "mask.mp4") == "unsupported_container"
    (tmp_path / "mask.png").write_bytes(b"")
    assert mask_refusal(tmp_path / "mask.png") == "truncated_file"


# --- kernels -------------------------------------------------------------------------------------------------------


def spot(size: int = 9) -> NDArray[np.uint8]:
    offsets = np.arange(size) - size // 2
    kernel: NDArray[np.uint8] = np.round(255 * np.exp(-0.1 * (offsets[:, None] ** 2 + offsets**2))).astype(np.uint8)
    return kernel


def kernel_refusal(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        probe(path, settings(), "kernel")
    return refused.value.code


def test_a_kernel_is_a_small_grey_picture(tmp_path: Path) -> None:
    info, warnings = probe(media.still(tmp_path / "kernel.png", spot(), "gray"), settings(), "kernel")
    assert (info.width, info.height, info.frames, warnings) == (9, 9, 1, [])
    grey = np.repeat(spot()[..., None], 3, axis=2)
    assert probe(media.still(tmp_path / "kernel.png", grey, "rgb24"), settings(), "kernel")[0].width == 9
    deep = spot().astype(np.uint16) * 257
    assert probe(media.still(tmp_path / "kernel.png", deep, "gray16be"), settings(), "kernel")[1] == []


def test_what_is_no_kernel(tmp_path: Path) -> None:
    coloured = np.repeat(spot()[..., None], 3, axis=2)
    coloured[0, 0, 1] += 9
    assert kernel_refusal(media.still(tmp_path / "k.png", coloured, "rgb24")) == "kernel_invalid"
    assert kernel_refusal(media.still(tmp_path / "k.png", np.zeros((9, 9), np.uint8), "gray")) == "kernel_invalid"
    assert kernel_refusal(media.still(tmp_path / "k.png", spot(131), "gray")) == "kernel_invalid"
    assert kernel_refusal(media.clip(tmp_path / "k.mp4")) == "unsupported_container"
    (tmp_path / "k.png").write_bytes(b"")
    assert kernel_refusal(tmp_path / "k.png") == "truncated_file"
