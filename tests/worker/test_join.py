"""Clips made apart, put in one file: pictures and times of a file written at once, sound of the source."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import pytest
import torch

from tests import media
from worker.encode import write_clip
from worker.join import joined
from worker.video import Clip, clip_info, read_clip

VARIABLE = [0, 400, 1100, 1600, 1700, 2600, 3000, 3500, 4600, 4700, 5200, 5800]
EVEN = [512 * n for n in range(12)]


def packets(path: Path, kind: str) -> list[tuple[int | None, int | None, bytes]]:
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [(p.pts, p.duration, bytes(p)) for p in container.demux(streams) if p.size]


def look_of(path: Path) -> tuple[object, ...]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        colour = context.colorspace, context.color_range, context.color_primaries, context.color_trc
        return stream.width, stream.height, stream.pix_fmt, stream.sample_aspect_ratio, *colour


@pytest.mark.parametrize("times", [EVEN, VARIABLE], ids=["even", "variable"])
@pytest.mark.parametrize("lengths", [[12], [5, 1, 6], [1, 2, 9], [4, 4, 4]], ids=str)
@pytest.mark.parametrize("width", [128, 63])
def test_pieces_are_as_one(tmp_path: Path, times: list[int], lengths: list[int], width: int) -> None:
    source = media.clip(tmp_path / "in.mp4", frames=12, sound="aac")
    like = replace(clip_info(source), sample_aspect_ratio=Fraction(4, 3))
    frames = torch.stack([torch.from_numpy(media.picture(width, 48, t)) for t in range(12)]).float()
    write_clip(tmp_path / "alone.mp4", frames, like, pts=times, crf=12)
    joined(tmp_path / "whole.mp4", [(tmp_path / "alone.mp4", times)], like, source)
    clips, done = [], 0
    for n, length in enumerate(lengths):
        own = slice(done, done + length)
        path = tmp_path / f"piece{n}.mp4"
        write_clip(path, frames[own], like, pts=times[own], crf=12)
        clips.append((path, times[own]))
        done += length
    assert joined(tmp_path / "joined.mp4", clips, like, source) == []

    found = read_clip(tmp_path / "joined.mp4")
    assert found.pts == read_clip(tmp_path / "alone.mp4").pts == read_clip(tmp_path / "whole.mp4").pts
    assert torch.equal(found.frames, torch.cat([read_clip(path).frames for path, _ in clips]))
    assert look_of(tmp_path / "joined.mp4") == look_of(tmp_path / "alone.mp4")
    assert packets(tmp_path / "joined.mp4", "audio") == packets(tmp_path / "whole.mp4", "audio")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        off = stream.duration - (times[-1] + round(like.frame_ticks) - times[0])
        assert abs(off * stream.time_base) < Fraction(1, 1000), "an edit's length is counted in milliseconds"
        decoding = [p.dts for p in container.demux(container.streams.video[0]) if p.dts is not None]
    assert decoding == sorted(set(decoding)), "players want them to go up"
    assert not list(tmp_path.glob(".*.part"))


# --- sound ---------------------------------------------------------------------------------------------------------


def with_sound(path: Path, clip: Clip, source: Path) -> list[str]:
    """A clip in one piece, with the sound of a file."""
    silent = path.with_name("silent.mp4")
    write_clip(silent, clip.frames, clip, pts=clip.pts, crf=30)
    return joined(path, [(silent, clip.pts)], clip, source)


def sound(path: Path) -> tuple[list[bytes], Fraction]:
    """The audio packets of a file, and by how much its sound is ahead of its first frame."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [p for p in container.demux(stream) if p.dts is not None]
    with av.open(str(path)) as container:
        first = next(container.decode(container.streams.video[0]))
        assert first.pts is not None and packets[0].pts is not None and first.time_base is not None
        return [bytes(cast(bytes, p)) for p in packets], first.pts * first.time_base - packets[0].pts * packets[
            0
        ].time_base


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("in.mp4", "aac"),
        ("in.mkv", "aac"),
        ("in.mkv", "libopus"),
        ("in.mkv", "flac"),
        ("in.avi", "libmp3lame"),
        ("in.ts", "ac3"),
    ],
)
def test_sound_is_copied_bit_for_bit(tmp_path: Path, name: str, codec: str) -> None:
    video = "mpeg4" if name.endswith("avi") else "libx264"
    path = media.clip(tmp_path / name, codec=video, frames=30, sound=codec)
    assert with_sound(tmp_path / "out.mp4", read_clip(path), path) == []
    (before, ahead), (after, still_ahead) = sound(path), sound(tmp_path / "out.mp4")
    assert after == before
    assert abs(still_ahead - ahead) <= Fraction(1, 1000)


def test_adts_frames_lose_their_headers_only(tmp_path: Path) -> None:
    """AAC in a transport stream wears a header that mp4 has elsewhere."""
    path = media.clip(tmp_path / "in.ts", frames=30, sound="aac")
    with_sound(tmp_path / "out.mp4", read_clip(path), path)
    (before, ahead), (after, still_ahead) = sound(path), sound(tmp_path / "out.mp4")
    assert after == [packet[7:] for packet in before]
    assert abs(still_ahead - ahead) <= Fraction(1, 1000)


def test_sound_moves_with_frames_put_before_it(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.mp4", frames=10, sound="aac")
    clip = read_clip(path)
    pts = [*(round(clip.pts[0] - k * clip.frame_ticks) for k in range(5, 0, -1)), *clip.pts]
    frames = torch.cat([clip.frames[:5], clip.frames])
    with_sound(tmp_path / "out.mp4", replace(clip, frames=frames, pts=pts), path)
    assert abs((sound(path)[1] - sound(tmp_path / "out.mp4")[1]) - Fraction(5, 25)) <= Fraction(1, 1000)


def test_sound_that_mp4_cannot_hold_is_left_out_aloud(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "in.avi", codec="mpeg4", sound="pcm_s16le")
    (warning,) = with_sound(tmp_path / "out.mp4", read_clip(path), path)
    assert "pcm_s16le" in warning
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
