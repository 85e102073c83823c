# Three commands:
#   make demo    train a small detector, measure both its heads, draw the paper's figures
#   make test    run the tests
#   make docs    build the documentation into build/docs, running the commands and code that it shows
# Each makes the virtual environment when there is none, and brings it up to date when
# pyproject.toml has changed. To choose another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile
DOCS ?= build/docs

.PHONY: demo test docs

demo: $(VENV)/.installed
	$(VENV)/bin/rethink-heads demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m sphinx -q -E -W --keep-going -n docs $(DOCS)

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/.installed: pyproject.toml
	@echo "installing into $(VENV); PyTorch alone takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
