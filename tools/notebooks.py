"""Run notebooks from top to bottom and store their outputs, small and the same on every machine.

    python tools/notebooks.py                      all of them, as `make notebooks` does
    python tools/notebooks.py notebooks/05*.ipynb  some

Pictures are reduced to a palette of at most 128 colours; times and machine details are left out.
A notebook that fails is reported and left as it was.
"""

import base64
import io
import os
import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1] / "notebooks"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as conftest.py has it for the tests
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def with_palette(png: str) -> str:
    """A base64 PNG again, with at most 128 colours, if that makes it smaller."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    # Rare colours stay as they are: a median cut showed yellow as orange where much else was drawn.
    few = picture.quantize(128, Image.Quantize.MAXCOVERAGE, 4, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    small = base64.b64encode(out.getvalue()).decode()
    return min(png.replace("\n", ""), small, key=len)


def in_one_piece(outputs: list) -> list:
    """Texts printed one after another as one output, however the kernel happened to flush them."""
    merged = []
    for output in outputs:
        text = output.output_type == "stream"
        if text and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def run(path: pathlib.Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if hidden:  # a figure's code, which JupyterLab folds away
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "code":
            cell.outputs = in_one_piece(cell.outputs)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = with_palette(data["image/png"])
            if "metadata" in output:  # of a picture's, its words alone are kept
                alt = output.metadata.get("image/png", {}).get("alt")
                output.metadata = {"image/png": {"alt": alt}} if alt else {}
    nbformat.validate(notebook)
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, path)


def main() -> int:
    paths = [pathlib.Path(p) for p in sys.argv[1:]]
    failed = 0
    for path in paths or sorted([*ROOT.glob("*.ipynb"), *ROOT.glob("solutions/*.ipynb")]):
        start = time.time()
        try:
            run(path)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: FAILED, left as it was\n{error}")
        else:
            print(f"{path.name}: {time.time() - start:.1f} s, {path.stat().st_size / 1e3:.0f} KB")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
