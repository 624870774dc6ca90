"""VMAF (Li et al. 2016), by the ffmpeg that comes with imageio-ffmpeg."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
from torch import Tensor


def vmaf(clip: Tensor, truth: Tensor) -> float:
    """Mean over frames of libvmaf's default model, 0 to 100; clips (T, 3, H, W) in [0, 1].

    The model was made for 1920x1080 seen from three heights away: on small frames its values are for comparing only.
    """
    size = f"{clip.shape[-1]}x{clip.shape[-2]}"
    with TemporaryDirectory() as directory:
        seen, true, log = (Path(directory) / name for name in ("seen.rgb", "true.rgb", "log.json"))
        for path, x in ((seen, clip), (true, truth)):
            path.write_bytes((x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-i"]
        score = f"[0]format=yuv444p[a];[1]format=yuv444p[b];[a][b]libvmaf=log_fmt=json:log_path={log}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, str(seen), *raw, str(true)]
        subprocess.run([*command, "-lavfi", score, "-f", "null", "-"], check=True)
        return float(json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"])
