"""Executes the notebooks without a network, and saves what they show: `python -m colab.run [NAME...]`.

Each runs from top to bottom in a process and a folder of its own. After the cell that is tagged
`parameters` comes another one that sets them for a run of some seconds on embedded data, as papermill
does it; it is not saved, all else is what a user runs. A notebook with an error is not saved.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from keras_cvt._commands import Parser, command
from keras_cvt._files import replacing

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SECONDS = 1800  # after which a cell is taken to hang

# No connection leaves this machine: what asks for the network fails.
OFFLINE = """
import socket

OFFLINE = True
_connect = socket.socket.connect

def _connect_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"offline: no connection to {address}")
    return _connect(self, address)

socket.socket.connect = _connect_here
"""
PARAMETERS = {
    "01_classify": "",
    "02_fine_tune": """
IMAGE_SIZE, BATCH, HEAD_EPOCHS, ALL_EPOCHS = 64, 32, 2, 5
AUGMENTER, FLIP, ERASE = "none", 0.0, 0.0  # a mirrored digit is none
""",
    "03_train_distributed": """
SETTINGS = [
    "source=digits", "image_size=32", "model=custom", "dims=16,32,64", "depths=1,1,2", "heads=1,2,4",
    "patch=3,2,1", "init=xavier", "crop_scale=none", "max_shift=2", "evaluation_crop=none",
    "augmenter=none", "flip=0", "erase=0", "mixup=0", "cutmix=0", "mix_images=none", "batch_size=64",
    "epochs=6", "warmup_epochs=1", "cooldown_epochs=0", "learning_rate=0.002",
    "learning_rate_images=none", "logical_cpus=2",
]
""",
    "04_export_and_serve": "",
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of all code cells' sources: whether outputs belong to them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def execute(name: str, more_parameters: str = "") -> nbformat.NotebookNode:
    """Executes a notebook as it is saved, in a new process and a new folder, without a network.

    Args:
        name: Of the notebook, without folder and ending.
        more_parameters: Code behind that of `PARAMETERS`, such as of a shorter training.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: with what a cell has raised.
    """
    notebook = read(name)
    (place,) = (
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())
    )
    injected = nbformat.v4.new_code_cell(OFFLINE + PARAMETERS[name] + more_parameters)
    notebook.cells.insert(place + 1, injected)
    root = str(FOLDER.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        )
        client.execute(env={**os.environ, "PYTHONPATH": path})
    notebook.cells.remove(injected)
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata.pop("execution", None)  # times of day
        # What TensorFlow says of this machine's processor is of no use to a reader.
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number + 1
    notebook.metadata["executed"] = digest(notebook)
    return notebook


@command("colab.run", {})
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 if a notebook has raised an error, 2 if there is no such notebook."""
    parser = Parser(prog="colab.run", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NOTEBOOKS))
    names = parser.parse_args(argv).names
    if unknown := set(names) - set(NOTEBOOKS):
        parser.error(f"{min(unknown)!r} is none of {', '.join(NOTEBOOKS)}")
    for name in names or NOTEBOOKS:
        try:
            notebook = execute(name)
        except CellExecutionError as error:  # with a traceback, which says where
            print(f"colab.run: {name}: {error}", file=sys.stderr)
            return 1
        path = FOLDER / f"{name}.ipynb"
        with replacing(path) as temporary:
            nbformat.write(notebook, temporary)
        print(f"{name}: {path.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
