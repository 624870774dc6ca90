"""The sizes SDXL was trained for."""

import pytest

from app.contract import OutputInfo
from app.sizes import SDXL_SIZES, nearest_sdxl_size, too_small_for_sdxl


def test_there_are_26_sizes_of_about_a_megapixel_from_1_to_2_to_3_to_1() -> None:
    assert len(set(SDXL_SIZES)) == 26
    assert all(side % 64 == 0 for size in SDXL_SIZES for side in size)
    assert all(0.9 * 2**20 < w * h <= 2**20 for w, h in SDXL_SIZES)
    shapes = [w / h for w, h in SDXL_SIZES]
    assert (shapes[0], shapes[-1]) == (0.5, 3)
    assert shapes == sorted(shapes)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1280, 768), (1280, 768)),
        ((256, 160), (1280, 768)),
        ((1920, 1080), (1344, 768)),
        ((1080, 1920), (768, 1344)),
        ((4096, 4096), (1024, 1024)),
        ((100, 16), (1728, 576)),
        ((16, 1000), (704, 1408)),
    ],
)
def test_the_nearest_is_the_one_of_like_shape(size: tuple[int, int], nearest: tuple[int, int]) -> None:
    assert nearest_sdxl_size(*size) == nearest


def test_only_far_too_small_frames_are_warned_of() -> None:
    assert too_small_for_sdxl(640, 384) is None
    assert too_small_for_sdxl(4096, 2304) is None
    told = too_small_for_sdxl(638, 384)
    assert told is not None
    assert "1280x768" in told


def test_a_restored_clip_tells_its_nearest_size_and_is_read_back_with_it() -> None:
    output = OutputInfo(width=1920, height=1080, frames=1, bytes=1, sha256="")
    assert output.model_dump(mode="json")["sdxl_size"] == [1344, 768]
    assert OutputInfo.model_validate_json(output.model_dump_json()) == output
