"""The notebooks run from top to bottom without a network, and show what is saved in them (colab/)."""

from __future__ import annotations

import pytest

from colab import run

PICTURES = {
    "01_classify": 6,
    "02_fine_tune": 3,
    "03_train_distributed": 3,
    "04_export_and_serve": 2,
}

# Shorter trainings than those whose results are saved. One breaks off in the third epoch.
SHORTER = {
    "02_fine_tune": "IMAGE_SIZE, HEAD_EPOCHS, ALL_EPOCHS = 32, 1, 3",
    "03_train_distributed": "SETTINGS += ['epochs=2', 'depths=1,1,1']",
}


def pictures(notebook) -> int:
    return sum(
        any(kind in output.get("data", {}) for kind in ("image/png", "image/jpeg"))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_there_are_four():
    assert run.NOTEBOOKS == list(PICTURES) == list(run.PARAMETERS)


@pytest.mark.parametrize("name", run.NOTEBOOKS)
def test_saved_outputs_belong_to_the_cells(name):
    notebook = run.read(name)
    assert notebook.metadata.get("executed") == run.digest(notebook), "run: python -m colab.run"
    assert pictures(notebook) >= PICTURES[name]
    assert (run.FOLDER / f"{name}.ipynb").stat().st_size < 500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    # What a user runs is not set for a run offline, and says where it comes from.
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    assert parameters.source.startswith("OFFLINE = False\n")
    assert "OWNER" in code[0].source and "OFFLINE = True" not in "".join(c.source for c in code)


@pytest.mark.slow
@pytest.mark.parametrize("name", run.NOTEBOOKS)
def test_execution(name):
    executed = run.execute(name, SHORTER.get(name, ""))  # an error in a cell is raised here
    assert pictures(executed) >= PICTURES[name]
    saved, executed = (
        [cell.source for cell in notebook.cells] for notebook in (run.read(name), executed)
    )
    assert executed == saved


def test_offline_means_offline(tmp_path, monkeypatch, capsys):
    """What asks for the network fails, and a notebook that fails is not saved."""
    (tmp_path / "01_classify.ipynb").write_text((run.FOLDER / "01_classify.ipynb").read_text())
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    notebook = run.read("01_classify")
    notebook.cells[4].source = "import urllib.request; urllib.request.urlopen('http://192.0.2.1')"
    run.nbformat.write(notebook, tmp_path / "01_classify.ipynb")
    before = (tmp_path / "01_classify.ipynb").read_bytes()
    monkeypatch.setenv("PYTHONPATH", str(run.Path(run.__file__).parent.parent))
    assert run.main(["01_classify"]) == 1
    assert "offline: no connection" in capsys.readouterr().err
    assert (tmp_path / "01_classify.ipynb").read_bytes() == before
