"""Decodes one untrusted file from end to end and prints what it is, as a line of JSON; a process of its own.

Run by app/probe.py as `python -m app.probe_child QUESTION PARENT`; PARENT is the number of the process it dies with.
What cannot be taken is answered with a code and a detail, not with a failure.
"""

import json
import math
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import av
import av.logging
import av.subtitles.codeccontext  # PyAV imports these two when it meets its first stream,
import av.subtitles.stream  # and by then no further file can be opened
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from app.containers import HEAD_BYTES, UploadKind, demuxer_of
from app.parent import tied_to
from app.probe_frames import Question, Refusal, Seen, check_colour, check_size, look_at, report

MEMORY: Final = 4 << 30  # bytes of address space: the frames a 4K decoder keeps, several times over
OPEN_FILES: Final = 4  # standard streams, and the file
_HARMLESS: Final = ("SEI", "VPS", "APP")  # errors beside the picture: notes, repeated headers, camera data
_VIDEOS: Final = "MP4, MOV, Matroska, WebM, AVI or MPEG-TS"
_TAKEN: Final = {"clip": _VIDEOS, "mask": f"{_VIDEOS}, PNG or JPEG", "kernel": "PNG or JPEG"}

Log = list[tuple[int, str, str]]


def answer(question: Question) -> dict[str, Any]:
    """The media, and what its owner should know. Raises Refusal."""
    path = Path(question.path)
    form = container_of(path, question.kind)
    short = cut_short(path, form)
    with av.logging.Capture(local=False) as log, opened(question, form, log) as container:
        stream = video_stream(container)
        check_size(question, stream.width, stream.height)
        if question.kind == "clip":
            check_colour(stream.codec_context.color_trc, stream.codec_context.colorspace)
            if stream.metadata.get("alpha_mode") == "1":
                raise Refusal("alpha_unsupported", "The clip has transparency, which cannot be restored.")
        seen = Seen()
        for frame in decoded(question, container, stream, form, log):
            look_at(frame, seen, question, form)
        if short:
            raise corrupt(stream, seen.frames)
        return report(container, stream, seen, question.kind)


# --- opening -------------------------------------------------------------------------------------------------------


def container_of(path: Path, kind: UploadKind) -> str:
    """The demuxer for a file; no other is tried, whatever the file's name."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise Refusal("truncated_file", "The file is empty.")
    form = demuxer_of(head, kind)
    if form is None:
        raise Refusal("unsupported_container", f"This is no {_TAKEN[kind]} file.")
    return form


def cut_short(path: Path, form: str) -> bool:
    """Whether an AVI file ends before its header says; the other demuxers tell by themselves."""
    if form != "avi":
        return False
    with path.open("rb") as file:
        return path.stat().st_size < int.from_bytes(file.read(8)[4:], "little") + 8


def opened(question: Question, form: str, log: Log) -> InputContainer:
    """The container, unable to name other files or hosts, or to make a decoder take too large a frame."""
    guard = {"protocol_whitelist": "file", "format_whitelist": form, "max_streams": "16"}
    try:
        return av.open(
            question.path,
            "r",
            format=form,
            container_options=guard,
            options=pixel_limit(question),
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        check_log(question, log)
        raise Refusal("truncated_file", "The file cannot be opened: it is cut short or damaged.") from error


def pixel_limit(question: Question) -> dict[str, str]:
    """Decoders count what they allocate, in whole blocks and more; what is shown is checked exactly."""
    return {"max_pixels": str(2 * question.max_pixels + 65_536)}


def check_log(question: Question, log: Log) -> None:
    if any("exceeds specified max pixel count" in message for _, _, message in log):
        raise Refusal("resolution_too_large", f"A frame may have {question.max_pixels} pixels.")


def video_stream(container: InputContainer) -> VideoStream:
    """The one video stream; pictures on a cover do not count."""
    if not container.streams:
        raise Refusal("truncated_file", "The file holds no stream: it is cut short or damaged.")
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise Refusal("no_video_stream", "The file has no video stream.")
    if len(videos) > 1:
        raise Refusal("ambiguous_video_stream", f"The file has {len(videos)} video streams; send one with one.")
    if cast(object, videos[0].codec_context) is None:
        raise Refusal("unsupported_codec", "There is no decoder for this video; H.264 is always understood.")
    return videos[0]


# --- decoding ------------------------------------------------------------------------------------------------------


def decoded(
    question: Question, container: InputContainer, stream: VideoStream, form: str, log: Log
) -> Iterator[av.VideoFrame]:
    """Every frame, decoded on one thread so that an error names its frame. Raises Refusal at the first bad one.

    Errors come in four ways: a packet is marked, the decoder raises, a frame is marked, or somebody complains in the
    log: the demuxer of a file that ends too early, or a decoder that then shows something of its own making.
    """
    stream.codec_context.options = pixel_limit(question)
    stream.codec_context.thread_count = 1
    log.clear()
    shown: list[int] = []  # when the frame of each packet is to be shown
    clock: list[int | None] = []  # AVI knows only the packets' order: there the k-th frame takes the k-th's time
    frames = 0
    packets = container.demux(stream)
    while True:
        pts: int | None = None
        try:
            packet = next(packets, None)
            if packet is None:
                break
            pts = packet.pts
            if packet.is_corrupt or complaint(log):
                raise corrupt(stream, place(pts, shown))
            pictures = packet.decode()
            if complaint(log):
                raise corrupt(stream, place(pts, shown))
        except (av.FFmpegError, MemoryError) as error:
            check_log(question, log)
            if isinstance(error, MemoryError):
                raise Refusal("resolution_too_large", "Decoding this file takes too much memory.") from error
            raise corrupt(stream, place(pts, shown)) from error
        if packet.size:
            shown.append(pts if pts is not None else len(shown))
            clock.append(packet.dts)
        log.clear()
        for frame in pictures:
            if frame.is_corrupt:
                raise corrupt(stream, frames)
            if form == "avi":
                frame.pts = clock[frames] if frames < len(clock) else None
            frames += 1
            if frames > question.max_frames:
                raise Refusal("too_many_frames", f"A file may have {question.max_frames} frames; send it in parts.")
            yield frame
    if len(shown) < promised(form, stream):
        raise corrupt(stream, len(shown))


def complaint(log: Log) -> bool:
    return any(not message.startswith(_HARMLESS) for _, _, message in log)


def place(pts: int | None, shown: list[int]) -> int:
    """Which frame is to be shown at pts; packets come in another order."""
    return len(shown) if pts is None else sum(earlier < pts for earlier in shown)


def corrupt(stream: VideoStream, number: int) -> Refusal:
    """The frame of that number is the first bad one."""
    claim = f", of the {stream.frames} the file claims to have," if stream.frames > number else ""
    return Refusal("corrupt_stream", f"Frame {number}{claim} cannot be decoded (the first is frame 0).")


def promised(form: str, stream: VideoStream) -> int:
    """How many packets the index lists, where there is one for the whole file."""
    return len(stream.index_entries) if form == "mov" else 0


# --- the process ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer the question on the command line."""
    tied_to(int(sys.argv[2]), signal.SIGKILL)()
    question = Question(**json.loads(sys.argv[1]))
    confine(question.seconds)
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        print(json.dumps(answer(question)))
    except Refusal as refusal:
        print(json.dumps({"code": refusal.code, "detail": refusal.detail}))


def confine(seconds: float) -> None:
    """Give up, for good, what decoding does not need; only root could still start processes and threads."""
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, math.ceil(seconds) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (most, most))


if __name__ == "__main__":
    main()
