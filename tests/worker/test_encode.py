"""Files that are written: whole or not at all, the same from the same frames, each for those who look at it."""

from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from torch import Tensor

from tests import media
from tests.worker.test_video import clip_of, levels, moving, write
from worker.encode import ResultWriter, write_clip
from worker.video import Clip, read_clip


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    """Five times, at a size that keeps all threads of the encoder busy."""
    clip = read_clip(media.clip(tmp_path / "in.mp4", size=(320, 192), frames=20))
    files = [tmp_path / f"{number}.mp4" for number in range(5)]
    for file in files:
        write(file, clip, crf=20)
    assert len({file.read_bytes() for file in files}) == 1


def test_the_index_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", clip_of(moving(64, 48, 2)))
    content = (tmp_path / "out.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    clip = clip_of(moving(64, 48, 4))

    def broken() -> Iterator[Tensor]:
        yield from clip.frames[:2]
        assert not (tmp_path / "out.mp4").exists()
        raise RuntimeError("the solver stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_clip(tmp_path / "out.mp4", broken(), clip, pts=clip.pts, crf=20)
    with pytest.raises(ValueError, match="argument"):
        write_clip(tmp_path / "out.mp4", clip.frames, clip, pts=clip.pts[:-1], crf=20)
    with pytest.raises(ValueError, match="no frames"):
        write_clip(tmp_path / "out.mp4", [], clip, pts=[], crf=20)
    assert list(tmp_path.iterdir()) == []


def results_of(directory: Path, clip: Clip, restored: Tensor, lifted: Tensor) -> ResultWriter:
    pts = [512 * n for n in range(len(restored))]
    with ResultWriter(directory, clip, crf=12) as results:
        for frame, start, timestamp in zip(restored, lifted, pts, strict=True):
            results.add(frame, start, timestamp)
    return results


def test_a_preview_is_small_and_even(tmp_path: Path) -> None:
    for size, expected in (((1279, 721), (640, 362)), ((63, 47), (64, 48)), ((64, 48), (64, 48))):
        frames = moving(*size, 2).half()
        results = results_of(tmp_path, clip_of(frames), frames, frames)
        with av.open(str(results.files["preview"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.pix_fmt) == (*expected, "yuv420p")


def test_a_comparison_shows_both(tmp_path: Path) -> None:
    """What came in on the left, the result on the right."""
    left, right = moving(64, 48, 3), 1 - moving(64, 48, 3)
    results = results_of(tmp_path, clip_of(left), right, left)
    both = read_clip(results.files["comparison"]).frames
    assert both.shape == (3, 3, 48, 132)
    assert levels(both[..., 2:62], left[..., 2:62]) < 3
    assert levels(both[..., 70:130], right[..., 2:62]) < 3
    assert float(both[..., 65:67].min()) > 0.9


def test_results_are_named_as_the_service_names_them(tmp_path: Path) -> None:
    """With six frames more than were measured."""
    clip = read_clip(media.clip(tmp_path / "in.mp4", frames=6, sound="aac"))
    restored = moving(128, 96, 12)
    results = results_of(tmp_path, clip, restored, restored)
    assert {name: file.name for name, file in results.files.items()} == {
        "output": "output.mp4",
        "preview": "preview.mp4",
        "comparison": "comparison.mp4",
    }
    for file in results.files.values():
        with av.open(str(file)) as container:
            assert len(list(container.decode(video=0))) == 12
            assert not container.streams.audio


def test_results_that_are_not_finished_leave_nothing(tmp_path: Path) -> None:
    frames = moving(64, 48, 3)
    with (
        pytest.raises(RuntimeError, match="stopped"),
        ResultWriter(tmp_path, clip_of(frames), crf=12) as results,
    ):
        results.add(frames[0], frames[0], 0)
        raise RuntimeError("the solver stopped")
    assert list(tmp_path.iterdir()) == []
