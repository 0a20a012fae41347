"""One GPU: our model against the official function, compiled by torch: `python -m benchmarks.gpu`.

Inference and training steps of CvT-13 in bfloat16, on Keras' JAX and torch backends, in turns with
Hugging Face's CvT under torch.compile; and the FLOP/s that each achieves (two for a multiply-add of
`keras_cvt.complexity`; a training step counts three times), as a share of what a large product of
matrices achieves in the same framework. TensorFlow is not needed.

Runs in .venv-jax and starts processes in .venv-torch: `make peers` makes both, with JAX for processors,
which `.venv-jax/bin/pip install "jax[cuda12]"` changes. `--device cpu`, with a small batch and size, is
for trying the command out. Exit status: 0 if done, 2 if it can't be done as asked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks import measure
from benchmarks.contenders import CONTENDERS, PRODUCTS, TORCH_COMPILED, Job, product_size
from keras_cvt._commands import Parser, command, integer

# And how much more a step computes than an answer: the gradients of weights and of activations.
TASKS = {"gpu inference": 1, "gpu training": 3}


@command("benchmarks.gpu", measure.STATUSES)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = Parser(prog="benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=integer(1), nargs="+", default=[128], metavar="N")
    parser.add_argument("--size", type=integer(1), default=224, metavar="PIXELS")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    measure.add_arguments(parser)
    arguments = parser.parse_args(argv)
    measure.run(arguments, compare)


def compare(arguments: argparse.Namespace) -> dict:
    """Measures and prints a table for each task and batch; returns all figures."""
    from keras_cvt import complexity
    from keras_cvt.architecture import VARIANTS

    cost = complexity(VARIANTS["CvT13"], (arguments.size, arguments.size, 3)).computed
    report: dict = {"tables": {}}
    for task, passes in TASKS.items():
        for batch in arguments.batch:
            jobs = [
                Job(task, name, batch, arguments.size, arguments.threads, arguments.device)
                for name in CONTENDERS[task]
            ]
            found = measure.take_turns(jobs, arguments.rounds, arguments.seconds)
            limits = {
                c.environment: 2 * product_size(c.job) ** 3 * max(c.rates) / batch
                for c in found
                if c.job.name in PRODUCTS
            }
            models = [c for c in found if c.job.name not in PRODUCTS]
            figures = measure.summarize(models, TORCH_COMPILED)
            for contender in models:
                row = figures[contender.job.name]
                row["flops"] = 2 * cost * passes * row["images_per_second"]
                row["share"] = row["flops"] / limits[contender.environment]
            title = (
                f"{task.removeprefix('gpu ')}, batch {batch} of {arguments.size}x{arguments.size}"
            )
            report["tables"][title] = figures
            print(
                f"\n{measure.table(title, 'torch.compile', figures, arguments.device == 'cpu')}\n"
            )
            for name, row in figures.items():
                share = f"{row['share']:.0%} of the product's"
                print(f"{name}: {row['flops'] / 1e12:.2f} TFLOP/s, {share}")
            print("matrix product:", {k: f"{v / 1e12:.2f} TFLOP/s" for k, v in limits.items()})
            report["versions"] = {k: v for c in found for k, v in c.facts.items()}
    measure.print_facts(report["versions"])
    return report


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")  # of this process, which only counts
    sys.exit(main())
