"""The report of an evaluation, for people."""

from __future__ import annotations

from typing import Any

from keras_cvt._messages import some


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines."""
    paper = "" if report["paper_top1"] is None else f" (the paper: {report['paper_top1']:.1%})"
    crop = "no crop" if report["crop"] is None else f"crop {report['crop']}"
    loss = "no number" if report["loss"] is None else f"{report['loss']:.4f}"
    lines = [
        f"{report['model']}, {report['weights']}, {report['image_size']} pixels, {crop}, "
        f"{report['precision']}, {report['strategy']}",
        f"{report['data']}, {report['split']}: {report['images']:,} images count, "
        f"{report['images_without_labels']:,} have no label, "
        f"{len(report['damaged_images']):,} can't be read",
        f"top-1 {report['top1']:.2%}{paper}, top-5 {report['top5']:.2%}, loss {loss}",
        f"{report['seconds']:.0f} s",
    ]
    if report["classes_matched_by"] == "position":
        lines.insert(
            2, "The model has no class names: its outputs are taken in the order of the classes"
        )
    if report["images_per_second"] is not None:
        lines[-1] += f", {report['images_per_second']:.0f} images/s"
    # Named once more where nothing follows: decoders write lines of their own between the others.
    if damaged := report["damaged_images"]:
        lines.append(f"can't be read: {some(damaged)}")
    return "\n".join(lines)
