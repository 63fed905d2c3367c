# make lab    open the notebooks in JupyterLab
# make test   check everything: the package, the notebooks, README and docs
# make demo   a picture from a sentence, and the way to it, by the tiny model that ships with minisd
# make train  train that model again, from nothing (hours; what is cut off goes on from where it was)
# make portable               the tests and the notebooks as other processors compute (hours)
# make portable TORCH=2.14.1  the same with that version of torch, in an environment of its own
# All make .venv first, if it is not there, and install requirements.txt and minisd into it.

PYTHON ?= python3
WORKERS ?= 2

.PHONY: lab test portable demo train notebooks index mutants clean same-python

# Jupyter refuses to start as root, which is who one is in most containers, unless it is told.
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

lab: .venv/.installed
	.venv/bin/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks $(AS_ROOT) $(LAB_FLAGS)

test: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pytest --nbval -n $(WORKERS) --dist loadfile

portable: .venv/.installed
	.venv/bin/python tools/portable.py $(if $(TORCH),--torch $(TORCH))

demo: .venv/.installed
	.venv/bin/python -m minisd "a small green star above a large yellow ring" --seed 1 --out demo.png
	.venv/bin/python -m minisd trajectory "a small green star above a large yellow ring" --seed 1 --out demo-strip.png

# Two processes of one thread are faster than one of two. OMP_NUM_THREADS is the threads of each.
train: .venv/.installed
	OMP_NUM_THREADS=1 .venv/bin/torchrun --nproc_per_node=$(WORKERS) -m minisd train

# Run all notebooks again and store what they print and draw.
notebooks: .venv/.installed
	.venv/bin/python tools/notebooks.py

# Write the index of equations, docs/EQUATIONS.md, again, and the table of exercises in docs/TEACHING.md.
index: .venv/.installed
	.venv/bin/python tools/equation_index.py
	.venv/bin/python tools/exercise_table.py

# Plant one slip after another in the formulas and see that the tests catch each.
mutants: .venv/.installed
	.venv/bin/python tools/mutants.py

clean:
	rm -rf .venv .venv-torch-* minisd.egg-info

# pip is run as a module, since an interrupted `make` may leave .venv with pip but without bin/pip.
# matplotlib is imported once so that its font cache is built here, not in a notebook's output.
.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) tools/supported.py
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -q -r requirements.txt
	.venv/bin/python -m pip install --disable-pip-version-check -q --no-deps -e .
	.venv/bin/python -c 'import matplotlib.pyplot'
	@touch $@

# A PYTHON that somebody names must be the one that .venv was made with.
ifneq ($(origin PYTHON),file)
.venv/.installed: | same-python
endif

same-python:
	@$(PYTHON) tools/supported.py .venv
