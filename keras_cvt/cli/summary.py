"""`keras-cvt summary`: what a model costs, layer by layer."""

from __future__ import annotations

import argparse
from typing import Any

from keras_cvt import _backend
from keras_cvt._tables import aligned
from keras_cvt.cli import designs


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "summary", help="parameters and multiply-adds of a model, layer by layer"
    )
    designs.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    _, stages = designs.chosen(arguments.model)
    _backend.start_quietly()
    from keras_cvt.analysis.complexity import Row, complexity

    height, width = arguments.image_size
    cost = complexity(stages, (height, width, 3), classes=arguments.classes)
    total = Row("total", cost.parameters, cost.statistics, cost.multiply_adds, cost.computed)
    rows = [("layer", "parameters", "statistics", "multiply-adds", "computed")]
    for row in [*cost.by_layer(), total]:
        numbers = (row.parameters, row.statistics, row.multiply_adds, row.computed)
        rows.append((row.name, *(f"{number:,}" for number in numbers)))
    print(f"{arguments.model} at {height}x{width}, {arguments.classes} classes")
    print("\n".join(aligned(rows, right=(1, 2, 3, 4))))
    print(
        f"\n{cost.parameters / 1e6:.2f} M parameters, {cost.multiply_adds / 1e9:.2f} G multiply-adds."
    )
    if cost.computed < cost.multiply_adds:
        print(
            "The classifier reads only the class token, so the last block computes nothing else: "
            f"{cost.computed / 1e9:.2f} G multiply-adds are computed."
        )
    print("Norms and activations are not counted.")
