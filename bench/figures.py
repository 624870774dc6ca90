"""Pictures of what bench/quality.py finds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from spectra import Spectra

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"Tweedie": "tab:blue", "data step": "tab:orange", "low-pass": "tab:green"}


def draw_experiment(
    name: str, drawn: Mapping[str, Mapping[str, Sequence[float]]], clips: Sequence[str], path: Path
) -> None:
    """PSNR of each variant of an experiment, one panel a task, one bar a clip."""
    figure, panels = plt.subplots(1, len(drawn), figsize=(4.2 * len(drawn), 3.2), squeeze=False)
    for panel, (task, found) in zip(panels[0], drawn.items(), strict=True):
        width = 0.8 / len(clips)
        for n, clip in enumerate(clips):
            places = [place + (n - (len(clips) - 1) / 2) * width for place in range(len(found))]
            panel.bar(places, [values[n] for values in found.values()], width, label=clip)
        every = [value for values in found.values() for value in values]
        panel.set_ylim(min(every) - 0.5, max(every) + 0.3)
        panel.set_xticks(range(len(found)), list(found), rotation=20, ha="right", fontsize=8)
        panel.set_title(task, fontsize=9)
    panels[0][0].set_ylabel("PSNR (dB)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper right", ncol=4, fontsize=7)
    figure.suptitle(name, fontsize=10)
    _save(figure, path)


def draw_heatmap(
    maps: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[Sequence[float]]]], path: Path
) -> None:
    """PSNR by tau and low-pass, one panel a task."""
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.9 * columns, 3.1 * rows), squeeze=False)
    for panel in panels.flat[len(maps) :]:
        panel.axis("off")
    for panel, (task, (taus, lowpasses, values)) in zip(panels.flat, maps.items(), strict=False):
        panel.imshow(values, cmap="viridis", aspect="auto")
        best, worst = max(map(max, values)), min(map(min, values))
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                ink = "black" if value > (best + worst) / 2 else "white"
                panel.text(x, y, f"{value - best:.2f}", ha="center", va="center", fontsize=7, color=ink)
        panel.set_xticks(range(len(lowpasses)), [f"{value:g}" for value in lowpasses], fontsize=7)
        panel.set_yticks(range(len(taus)), [f"{value:g}" for value in taus], fontsize=7)
        panel.set_xlabel("low-pass lambda", fontsize=8)
        panel.set_ylabel("tau", fontsize=8)
        panel.set_title(f"{task}: dB below {best:.2f}", fontsize=9)
    _save(figure, path)


def draw_spectra(task: str, found: Spectra, path: Path) -> None:
    """The error's spectrum after each stage, one panel a step."""
    columns = min(4, len(found.steps))
    rows = -(-len(found.steps) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.7 * rows), squeeze=False, sharex=True, sharey=True
    )
    for panel in panels.flat[len(found.steps) :]:
        panel.axis("off")
    for panel, step in zip(panels.flat, found.steps, strict=False):
        panel.semilogy(found.frequencies, found.given, color="0.6", linestyle=":", label="start")
        for stage, curve in step.curves.items():
            panel.semilogy(found.frequencies, curve, color=COLOURS[stage], linewidth=1, label=stage)
        panel.set_title(f"t = {step.t}", fontsize=9)
        panel.tick_params(labelsize=7)
    panels[0][0].legend(fontsize=7)
    figure.supxlabel("cycles a pixel", fontsize=8)
    figure.supylabel("RMS error (levels of 255)", fontsize=8)
    figure.suptitle(task, fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"drawn: {path}")
