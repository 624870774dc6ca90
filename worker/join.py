"""Segments of a result into one: files are put together as they are, frames that two segments share cross-faded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from app.contract import RESULT_FILES
from worker.comparison import Comparison
from worker.frame_report import FrameReport
from worker.lane import Lane
from worker.learned import Learned
from worker.mux import Muxer, Sound, opened, video_of
from worker.plan import Plan
from worker.segment import Segment, SegmentWriter, Strip
from worker.solver.segments import crossfade
from worker.video import ClipInfo

CLIPS = ("output", "preview", "comparison")


@dataclass(frozen=True)
class Piece:
    """Clips of consecutive frames, by the names of RESULT_FILES, and when those are shown, in ticks."""

    files: dict[str, Path]
    times: list[int]


class Joiner:
    """Joins the segments of a plan.

    crf: of the output. learned: None where the truth is not known. each: called after each shared frame.
    report, compared: of the whole. frames: how many are shown.
    """

    def __init__(self, plan: Plan, crf: int, learned: Learned | None, each: Callable[[], None]) -> None:
        self.report, self.compared = FrameReport(), Comparison(learned) if learned else None
        self.frames = 0
        self._plan, self._crf, self._learned, self._each = plan, crf, learned, each

    def join(
        self, directory: Path, segments: Sequence[Segment], sound: Path | None
    ) -> tuple[dict[str, Path], list[str]]:
        """Output, preview and comparison, in `directory`, and what had to be left out of the output.

        sound: a file with the clip's clock, whose sound goes with output and preview.
        """
        pieces: list[Piece] = []
        scene, tail = 0, None
        with Lane() as aside:
            for n, (run, segment) in enumerate(zip(self._plan.runs, segments, strict=True)):
                if run.scene != scene:
                    self._cut()
                    scene = run.scene
                own = range(run.frames.start + run.head, run.frames.stop - run.tail)
                self.report.add(segment.told["report"])
                if tail is not None:
                    faded = self._faded(directory / f"between-{n}", tail, segment, run.scene, own.start)
                    pieces += self._taken(faded, run.scene, range(own.start - run.head, own.start), aside)
                pieces += self._taken(segment, run.scene, own, aside)
                tail = segment.strip("tail")
        files = {name: directory / RESULT_FILES[name] for name in CLIPS}
        look, left_out = self._plan.look, {}
        for name, path in files.items():
            clips = [(piece.files[name], piece.times) for piece in pieces]
            left_out[name] = joined(path, clips, look, sound if name != "comparison" else None)
        return files, left_out["output"]

    def _cut(self) -> None:
        self.report.cut()
        if self.compared:
            self.compared.cut()

    def _faded(self, directory: Path, tail: Strip, after: Segment, scene: int, end: int) -> Segment:
        """The frames that two segments share, encoded; end: number of the first that only the second has."""
        head = after.strip("head")
        assert head is not None  # it shares frames with the one before
        faded = {name: crossfade(tail[name].float(), x.float()) for name, x in head.items() if name != "truth"}
        faded |= {name: x for name, x in head.items() if name == "truth"}
        count = len(head["restored"])
        writer = SegmentWriter(directory, self._plan.look, self._crf, count, learned=self._learned)
        with writer:
            writer.add(faded, self._plan.times(scene, range(end - count, end)), self._each)
        return writer.segment({})

    def _taken(self, segment: Segment, scene: int, frames: range, aside: Lane) -> list[Piece]:
        """The frames that a segment has encoded, for files and reports; none where it has none of its own."""
        first, last = segment.strip("first"), segment.strip("last")
        if first is None or last is None:
            return []
        told: dict[str, Any] = segment.told
        self.report.add_shown(told["report"], first["restored"][0], last["restored"][0], aside)
        if self.compared:
            edges = ([edge[name][0] for name in ("restored", "lifted", "truth")] for edge in (first, last))
            self.compared.add_told(told["compared"], *edges)
        self.frames += told["frames"]
        return [Piece(segment.files, [time for time in self._plan.times(scene, frames) if time is not None])]


def joined(path: Path, clips: Sequence[tuple[Path, list[int]]], look: ClipInfo, sound: Path | None) -> list[str]:
    """Put clips in one file, pictures as they are encoded, shown at these times; -> what of the sound was left out.

    look: whose time base it takes. The file keeps the distances of timestamps exactly and begins at zero; it appears
    when it is whole.
    """
    part = path.with_name(f".{path.name}.part")
    times = [time for _, own in clips for time in own]
    try:
        with ExitStack() as files:
            source = files.enter_context(opened(sound)) if sound else None
            output = files.enter_context(av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}))
            with opened(clips[0][0]) as first:
                stream = output.add_stream_from_template(video_of(first))
            stream.time_base = look.time_base
            track = Sound(source, output)
            start = times[0] * look.time_base
            if track.start is not None:
                start = min(start, track.start)
            muxer = Muxer(output, track, start)
            end = times[-1] + max(1, round(look.frame_ticks))
            muxer.mux(_packets(clips, [*times, end], stream, look.time_base, round(start / look.time_base)))
            muxer.finish(end - times[0])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return track.left_out


def _packets(
    clips: Sequence[tuple[Path, list[int]]], times: list[int], stream: VideoStream, time_base: Fraction, shift: int
) -> Iterator["Packet[VideoStream]"]:
    """All of them in the order of decoding, their clocks set anew: the k-th picture that is shown takes the k-th time.

    Each is decoded when the picture `delay` places before it is shown, as x264 has it, and lasts until the next is
    shown. times: of all pictures, and when the last one ends.
    """
    delay = max(place - rank for path, _ in clips for place, (rank, _) in enumerate(_ranked(path)))
    ahead = times[delay] - times[0]
    done = 0
    for path, own in clips:
        for place, (rank, packet) in enumerate(_ranked(path), done):
            packet.stream, packet.time_base = stream, time_base
            packet.pts = times[done + rank] - shift
            packet.duration = times[done + rank + 1] - times[done + rank]
            packet.dts = (times[place] - ahead if place < delay else times[place - delay]) - shift
            yield packet
        done += len(own)


def _ranked(path: Path) -> Iterator[tuple[int, "Packet[VideoStream]"]]:
    """Each packet of a clip, and how many of its pictures are shown before that one."""
    with opened(path) as container:
        packets = [packet for packet in container.demux(video_of(container)) if packet.size]
        rank = {pts: n for n, pts in enumerate(sorted(packet.pts or 0 for packet in packets))}
        for packet in packets:
            yield rank[packet.pts or 0], packet
