"""Clips made apart, put in one file: its pictures, times and sound are those of a file written at once."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from tests import media
from worker.encode import write_clip
from worker.join import joined
from worker.video import clip_info, read_clip

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
    write_clip(tmp_path / "whole.mp4", frames, like, pts=times, crf=12, audio_from=source)
    clips, done = [], 0
    for n, length in enumerate(lengths):
        own = slice(done, done + length)
        path = tmp_path / f"piece{n}.mp4"
        write_clip(path, frames[own], like, pts=times[own], crf=12)
        clips.append((path, times[own]))
        done += length
    assert joined(tmp_path / "joined.mp4", clips, like, source) == []

    whole, found = read_clip(tmp_path / "whole.mp4"), read_clip(tmp_path / "joined.mp4")
    assert found.pts == whole.pts
    assert torch.equal(found.frames, torch.cat([read_clip(path).frames for path, _ in clips]))
    assert look_of(tmp_path / "joined.mp4") == look_of(tmp_path / "whole.mp4")
    assert packets(tmp_path / "joined.mp4", "audio") == packets(tmp_path / "whole.mp4", "audio")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        off = stream.duration - (times[-1] + round(like.frame_ticks) - times[0])
        assert abs(off * stream.time_base) < Fraction(1, 1000), "an edit's length is counted in milliseconds"
        decoding = [p.dts for p in container.demux(container.streams.video[0]) if p.dts is not None]
    assert decoding == sorted(set(decoding)), "players want them to go up"
    assert not list(tmp_path.glob(".*.part"))
