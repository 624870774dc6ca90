"""Files to test with, made on the spot: moving pictures with structure, sound, and all that can be wrong."""

import zipfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

Pictures = Callable[[int], NDArray[np.float64]]

# Quiet, quick encoders; libx265 prints what it does and VP9 takes its time unless told otherwise.
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "12"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=0"},
    "mpeg4": {"qmin": "3", "qmax": "3"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def picture(width: int, height: int, t: int = 0) -> NDArray[np.float64]:
    """(3, H, W) RGB in [0, 1]: smooth waves that drift, a disc that wanders, different in every channel."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 0.5 + 0.35 * np.sin((x + 3 * t) / 17 + y / 29)
    green = 0.5 + 0.35 * np.cos(x / 23 - (y + 2 * t) / 13)
    blue = 0.5 + 0.35 * np.sin((x - t) / 31 + (y + t) / 19 + 1)
    distance = np.hypot(x - width * (0.3 + 0.02 * t), y - height * 0.5)
    disc = 0.3 / (1 + np.exp((distance - height / 5) / 3))
    return cast(NDArray[np.float64], np.clip(np.stack([red + disc, green - disc, blue]), 0, 1))


def clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    frames: int = 12,
    pictures: Pictures | None = None,
    codec: str = "libx264",
    container: str | None = None,
    pixel_format: str = "yuv420p",
    rate: int = 25,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sound: str | None = None,
    rotation: int = 0,
    pixel_shape: Fraction | None = None,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    movflags: str = "+faststart",
) -> Path:
    """A video file.

    size: width and height as stored. pictures: frame number -> (3, H, W) RGB. sound: an audio codec. rotation: degrees
    counterclockwise that make it upright. tags: color_trc and the like, as codec contexts name them. movflags: counts
    in mp4 and mov only.
    """
    muxing = {"movflags": movflags} if movflags and path.suffix in {".mp4", ".mov"} else {}
    with av.open(str(path), "w", format=container, options=muxing) as output:
        stream = cast(
            VideoStream, output.add_stream(codec, rate=rate, options=_OPTIONS.get(codec, {}) | (options or {}))
        )
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        stream.time_base = context.time_base = time_base or Fraction(1, rate)
        if rotation:
            stream.set_display_rotation(rotation)
        if pixel_shape is not None:
            context.sample_aspect_ratio = pixel_shape
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        voice = cast(AudioStream, output.add_stream(sound, rate=48_000)) if sound else None
        times = range(frames) if pts is None else pts
        _encode(output, stream, times, pictures or (lambda t: picture(*size, t)), tags or {})
        if voice is not None:
            _sing(output, voice, len(times) / rate)
    return path


def _encode(
    output: OutputContainer, stream: VideoStream, times: Sequence[int], pictures: Pictures, tags: dict[str, int]
) -> None:
    for number, timestamp in enumerate(times):
        rgb = (pictures(number).transpose(1, 2, 0) * 255).round().astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb)).reformat(format=stream.pix_fmt)
        for name, value in tags.items():
            setattr(frame, name, value)
        frame.pts, frame.time_base = timestamp, stream.codec_context.time_base
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _sing(output: OutputContainer, stream: AudioStream, seconds: float) -> None:
    """A sine of 440 Hz."""
    context = stream.codec_context
    output.start_encoding()
    size = context.frame_size or 1024
    kind = context.format.name
    for begin in range(0, int(seconds * 48_000), size):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(begin, begin + size) / 48_000)
        stereo = np.stack([wave, wave]) if kind.endswith("p") else np.repeat(wave, 2)[None]
        full, dtype = {"s16": (2**15 - 1, np.int16), "s32": (2**31 - 1, np.int32)}.get(kind[:3], (1, np.float32))
        samples = (stereo * full).astype(dtype)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=kind, layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, begin, Fraction(1, 48_000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def audio_only(path: Path) -> Path:
    """Sound in an mp4, no picture."""
    with av.open(str(path), "w", format="mp4") as output:
        _sing(output, output.add_stream("aac", rate=48_000), 0.5)
    return path


def two_videos(path: Path) -> Path:
    """Two video streams in one file."""
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 25)
        for stream in streams:
            _encode(output, stream, range(4), lambda t: picture(64, 48, t), {})
    return path


def no_frames(path: Path) -> Path:
    """The first segment of a fragmented mp4: it describes pictures and has none."""
    source = clip(path.with_name("source.mp4"), frames=1)
    fragmented = {"movflags": "+empty_moov+frag_keyframe"}
    with av.open(str(source)) as template, av.open(str(path), "w", format="mp4", options=fragmented) as output:
        output.add_stream_from_template(template.streams.video[0], opaque=True)
        output.start_encoding()
    return path


def many_frames(path: Path, frames: int) -> Path:
    """One tiny coded picture shown again and again: 144,000 frames take 36 MB and half a second to make."""
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts = 0
        coded = b"".join(bytes(cast(bytes, packet)) for packet in [*stream.encode(frame), *stream.encode(None)])
        for number in range(frames):
            packet = cast("av.Packet[VideoStream]", av.Packet(coded))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            output.mux(packet)
    return path


def huge_frame(path: Path) -> Path:
    """15360x8640, black: 390 kB."""
    with av.open(str(path), "w", format="mp4") as output:
        options = {"preset": "ultrafast", "threads": "1"}
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 15360, 8640, "yuv420p"
        frame = av.VideoFrame(15360, 8640, "yuv420p")
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def resolution_change(path: Path) -> Path:
    """An MPEG transport stream whose pictures grow half-way."""
    sizes = ((64, 48), (96, 64))
    small, large = (clip(path.with_name(f"{size[0]}.ts"), size=size) for size in sizes)
    with av.open(str(small)) as first, av.open(str(large)) as second, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
        for source, begin in ((first, 0), (second, 12 * 3600)):
            for packet in source.demux(source.streams.video[0]):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + begin, packet.dts + begin, stream
                    output.mux(packet)
    return path


def cut_in_half(source: Path, path: Path) -> Path:
    """The first half of a file."""
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def holed(source: Path, path: Path, size: int = 3000) -> Path:
    """A file with zeros in its middle."""
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + size] = bytes(size)
    path.write_bytes(content)
    return path


def still(path: Path, pixels: NDArray[Any], pixel_format: str, codec: str = "png") -> Path:
    """A PNG or, with codec `mjpeg`, a JPEG."""
    frame = av.VideoFrame.from_ndarray(pixels, format="gray" if codec == "mjpeg" else pixel_format)
    encoder = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pixel_format
    encoder.time_base = Fraction(1, 25)
    if codec == "mjpeg":
        frame = frame.reformat(format=pixel_format, dst_color_range=2)
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    path.write_bytes(b"".join(bytes(cast(bytes, packet)) for packet in packets))
    return path


def zip_archive(path: Path) -> Path:
    """A zip with a text in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no pictures here\n" * 100)
    return path


def as_png(path: Path, pixels: NDArray[np.uint8], pixel_format: str = "gray") -> Path:
    """A PNG under whatever name."""
    return still(path, pixels, pixel_format)
