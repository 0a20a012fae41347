"""Profiles in a few lines: where the time of a step goes, kernel by kernel."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LONGEST = 20
FOLDER = "BENCHMARKS_GPU_PROFILES"  # the environment's variable that names the folder

# By what a kernel of a library or of torch is called. The first that fits counts.
NAMES = {
    "copies": r"(?i)^memcpy|^memset",
    "attention, fused": r"(?i)flash|fmha|mha_graph|sdpa",
    "convolution": r"(?i)conv(?!ert)|dgrad|wgrad|implicit|nhwcAddPadding",
    "matrix product": r"(?i)gemm|nvjet|cutlass|cublas|xmma",
    "softmax": r"(?i)softmax",
    "norms": r"(?i)norm|var_mean|rsqrt",
    "activation": r"(?i)sigmoid",
    "optimizer": r"(?i)adam|multi_tensor",
}
# By the part of the model that an operation fused by XLA comes from.
SOURCES = {
    "optimizer": r"adam",
    "BatchNorm": r"/bn\b",
    "around convolutions": r"/conv_proj_|/patch_embed/proj",
    "LayerNorm": r"norm\d?\b",
    "around attention": r"/attn\b",
    "around the MLP's products": r"/mlp\b",
}


def kind(name: str, source: str) -> str:
    """What a kernel does, as its name tells, or the part of the model that it comes from."""
    for text, kinds in ((name, NAMES), (source, SOURCES)):
        for label, pattern in kinds.items():
            if re.search(pattern, text):
                return label
    return "other"


def table(
    kernels: Iterable[tuple[str, str, float]], batches: int, sources: Mapping[str, str]
) -> dict[str, Any]:
    """Sums up (kernel, operation, milliseconds): by kind, and the longest.

    Args:
        kernels: each that ran.
        batches: in how many batches.
        sources: by an operation's name, or a kernel's, the part of the model that it comes from.

    Returns:
        "milliseconds" of a batch, "kernels" in one, "kinds" with the milliseconds of each, "longest"
        with name, source, milliseconds and calls.
    """
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    kinds: dict[str, float] = defaultdict(float)
    for name, operation, milliseconds in kernels:
        source = sources.get(operation) or sources.get(re.sub(r"_(\d+)$", r".\1", name), "")
        kinds[kind(name, source)] += milliseconds / batches
        # Blocks and numbered kernels of one kind are one line.
        source = re.sub(r"(stage\d_blocks)_\d+", r"\1", source)
        entry = sums[re.sub(r"_\d+$", "", name)[:90], source[-110:]]
        entry[0] += milliseconds / batches
        entry[1] += 1
    longest = sorted(sums.items(), key=lambda item: -item[1][0])[:LONGEST]
    return {
        "milliseconds": sum(kinds.values()),
        "kernels": sum(count for _, count in sums.values()) / batches,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "longest": [
            {
                "name": name,
                "source": source,
                "milliseconds": milliseconds,
                "calls": count / batches,
            }
            for (name, source), (milliseconds, count) in longest
        ],
    }


def kept(ending: str) -> Path | None:
    """A file for a whole profile in the folder that `--profiles` names; None without."""
    folder = os.environ.get(FOLDER)
    return Path(folder, f"{os.getpid()}.{ending}") if folder else None
