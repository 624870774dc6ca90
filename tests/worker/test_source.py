"""Measured frames that parts share."""

import torch

from worker.solver.segments import Part
from worker.source import Shared


def test_parts_that_overlap_have_their_frames_once() -> None:
    clip = torch.rand(18, 3, 4, 6).half()
    parts = [Part(range(40 + n, 48 + n), range(40 + n, 48 + n)) for n in (0, 5, 10)]
    shared = Shared(parts, pinned=False)
    views = [shared.kept(part, clip[part.measured.start - 40 : part.measured.stop - 40].clone()) for part in parts]
    for part, view in zip(parts, views, strict=True):
        torch.testing.assert_close(view, clip[part.measured.start - 40 : part.measured.stop - 40], rtol=0, atol=0)
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert views[0].untyped_storage().nbytes() == clip.numel() * 2
