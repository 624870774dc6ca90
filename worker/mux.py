"""Streams out of a container, and into an mp4: encoded pictures, and copied sound."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal, Protocol, cast

import av
from av.audio.stream import AudioStream
from av.codec.context import ThreadType
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from app.containers import HEAD_BYTES, UploadKind, demuxer_of
from worker.colour import BT709, LIMITED

Speed = Literal["medium", "superfast"]  # of x264's presets
_AUDIO_OF_MP4: Final = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"})

# The same frames must make the same bytes. Those depend on how many threads encode, so that is fixed; and macroblock
# trees are off, as x264's AVX-512 code for them reads memory nobody wrote: every run differed, on one thread too.
_X264: Final = {"threads": "4", "x264-params": "mbtree=0"}


def opened(path: Path, kind: UploadKind = "clip") -> InputContainer:
    """A file with video or a still picture, by the demuxer that the probe took it with.

    Raises ValueError for any other file: playlists and the like, which name other files, are not opened.
    """
    with path.open("rb") as file:
        form = demuxer_of(file.read(HEAD_BYTES), kind)
    if form is None:
        raise ValueError(f"{path.name} is no {kind} that can be read")
    guard = {"protocol_whitelist": "file", "format_whitelist": form, "max_streams": "16"}
    return av.open(str(path), "r", format=form, container_options=guard, metadata_errors="replace")


def video_of(container: InputContainer) -> VideoStream:
    """The moving pictures, which a cover picture is not. Raises ValueError if there are none."""
    stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if stream is None:
        raise ValueError("the file has no video stream")
    stream.thread_type = ThreadType.AUTO
    return stream


def frames_of(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Every frame with its timestamp. AVI has none but the packets' order, so there the k-th frame takes the k-th's."""
    if container.format.name != "avi":
        yield from container.decode(stream)
        return
    clock: list[int | None] = []
    shown = 0
    for packet in container.demux(stream):
        if packet.size:
            clock.append(packet.dts)
        for frame in packet.decode():
            frame.pts = clock[shown] if shown < len(clock) else None
            shown += 1
            yield frame


class Look(Protocol):
    """What a stream of pictures takes from its source."""

    @property
    def time_base(self) -> Fraction: ...
    @property
    def rate(self) -> Fraction: ...
    @property
    def sample_aspect_ratio(self) -> Fraction: ...
    @property
    def primaries(self) -> int: ...
    @property
    def transfer(self) -> int: ...


def h264_stream(
    output: OutputContainer, width: int, height: int, pixel_format: str, crf: int, speed: Speed, like: Look
) -> VideoStream:
    """A stream for frames of that size and format, tagged BT.709 matrix and limited range."""
    options = {**_X264, "crf": str(crf), "preset": speed}
    stream = output.add_stream("libx264", rate=like.rate.limit_denominator(1001), options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    context = stream.codec_context
    stream.time_base = context.time_base = like.time_base
    context.sample_aspect_ratio = like.sample_aspect_ratio
    context.colorspace, context.color_range = BT709, LIMITED
    context.color_primaries, context.color_trc = like.primaries, like.transfer
    return stream


class Sound:
    """Every audio stream of a file that mp4 holds and players know.

    start: when it begins in its own file, in seconds; None if there is none to copy. left_out: what cannot be copied,
    in words for the client.
    """

    def __init__(self, source: InputContainer | None, output: OutputContainer) -> None:
        """Add a stream to output, whose header is not written yet, for each one that source has."""
        self.start: Fraction | None = None
        self.left_out: list[str] = []
        self._output = output
        self._copies: dict[int, AudioStream] = {}
        self._packets: Iterator[Packet[AudioStream]] = iter(())
        streams = source.streams.audio if source else ()
        for stream in streams:
            codec = stream.codec_context.codec.canonical_name if stream.codec_context else "of an unknown codec"
            if codec not in _AUDIO_OF_MP4:
                self.left_out.append(f"The sound ({codec}) cannot be kept in mp4 and was left out.")
                continue
            self._copies[stream.index] = output.add_stream_from_template(stream)
            # Encoders begin a little before zero; players cut that off, so it is no reason to move anything.
            begin = max(Fraction(0), (stream.start_time or 0) * (stream.time_base or Fraction(0)))
            self.start = begin if self.start is None else min(self.start, begin)
        if source and self._copies:
            wanted = [stream for stream in streams if stream.index in self._copies]
            self._packets = cast(Iterator["Packet[AudioStream]"], source.demux(*wanted))
        self._next = next(self._packets, None)

    def copy_until(self, seconds: Fraction | None, start: Fraction) -> None:
        """Copy all that comes before `seconds` of the output (None: all there is), which begins at `start`."""
        while (packet := self._next) is not None:
            if packet.dts is not None:  # a packet without is the demuxer's way to say that a stream has ended
                shift = round(start / packet.time_base)
                if seconds is not None and (packet.dts - shift) * packet.time_base >= seconds:
                    return
                packet.dts -= shift
                packet.pts = packet.dts if packet.pts is None else packet.pts - shift
                packet.stream = self._copies[packet.stream_index]
                self._output.mux(packet)
            self._next = next(self._packets, None)


class Muxer:
    """Lays pictures down, with sound if some goes with them. start: when the file begins, by the sound's clock."""

    def __init__(self, output: OutputContainer, sound: Sound | None = None, start: Fraction = Fraction(0)) -> None:
        self._output, self._sound, self._start = output, sound, start
        self._first_dts: int | None = None
        self._held: Packet[VideoStream] | None = None

    def mux(self, packets: Iterable["Packet[VideoStream]"]) -> None:
        """Packets in the order the encoder gave them; the newest is held back."""
        for packet in packets:
            assert packet.dts is not None
            if self._held is not None:
                self._output.mux(self._held)
            else:
                self._first_dts = packet.dts
            if self._sound:
                self._sound.copy_until(packet.dts * packet.time_base, self._start)
            self._held = packet

    def finish(self, ticks: int) -> None:
        """The rest, and the length of the whole: mp4 adds up distances between packets, and B-frames shorten those."""
        if self._held is not None and self._held.dts is not None and self._first_dts is not None:
            self._held.duration = ticks - (self._held.dts - self._first_dts)
            self._output.mux(self._held)
        if self._sound:
            self._sound.copy_until(None, self._start)
