"""Every notebook in examples/ runs, with its parameters set to a short run."""

import nbclient
import nbformat
import pytest
from paths import ROOT

SHORT = {
    "own_images": 'DATA = None\nRECIPE, MODEL, EPOCHS = "digits", "cifar-resnet8", 1\n'
    'SETTINGS = {"data.size": 8}',
    "depth": 'MODELS, BUDGET, SEEDS = ["cifar-plain8", "cifar-resnet8"], "20it", 1',
}


def test_every_notebook_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == SHORT.keys()


@pytest.mark.ci
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    )
    parameters.source = SHORT[name]
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [each for each in outputs if each.output_type == "error"]
    kinds = {kind for each in outputs for kind in each.get("data", ())}
    assert {"text/html", "image/png"} <= kinds  # a run or study shows itself, and a figure
