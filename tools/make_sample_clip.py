"""Make the sample clip: a photograph in motion, as a hand-held camera would see it.

    python tools/make_sample_clip.py                                      # app/static/sample.mp4
    python tools/make_sample_clip.py --photo coffee -o build/coffee.mp4   # the clip that settings are chosen on

The sample shows "chelsea" (CC0, Stefan van der Walt), which comes with scikit-image.
The camera pans, zooms and shakes over the photograph; every frame is resampled from the full picture, so each holds
detail at its own subpixel place, as real video does.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, FRAMES, RATE = 256, 160, 25, 25


def camera(photo: Image.Image, frames: int, width: int, height: int) -> list[Image.Image]:
    """Frames of a camera that drifts over the photograph, about a pixel a frame, and closes in on it by a tenth."""
    rng = np.random.default_rng(1)
    shake = np.cumsum(rng.normal(0, 0.35, (frames, 2)), axis=0)
    zoom = 0.92 * min(photo.width / width, photo.height / height)
    seen = []
    for n in range(frames):
        share = n / max(1, frames - 1)
        scale = zoom * (1 - 0.1 * share)
        w, h = width * scale, height * scale
        x = (photo.width - w) * (0.15 + 0.5 * share) + shake[n, 0]
        y = (photo.height - h) * (0.7 - 0.4 * share) + shake[n, 1]
        x, y = np.clip(x, 0, photo.width - w), np.clip(y, 0, photo.height - h)
        box = (float(x), float(y), float(x + w), float(y + h))
        seen.append(photo.resize((width, height), Image.Resampling.LANCZOS, box=box))
    return seen


def write(frames: list[Image.Image], path: Path, rate: int = RATE) -> None:
    """Visually lossless H.264 in mp4, tagged BT.709."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "6", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        context.time_base = Fraction(1, rate)
        for picture in frames:
            pixels: NDArray[np.uint8] = np.asarray(picture)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="BICUBIC"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", default="chelsea", help="any photograph of skimage.data")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "app" / "static" / "sample.mp4")
    args = parser.parse_args()
    photo = Image.fromarray(getattr(skimage.data, args.photo)())
    write(camera(photo, FRAMES, WIDTH, HEIGHT), args.output)
    print(f"{args.output}: {FRAMES} frames of {WIDTH}x{HEIGHT}, {args.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
