# Two commands:
#   make demo    train a small detector, measure both its heads, draw the paper's figures
#   make test    run the tests
# Each makes the virtual environment when there is none, and brings it up to date when
# pyproject.toml has changed. To choose another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: demo test

demo: $(VENV)/.installed
	$(VENV)/bin/rethink-heads demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

$(VENV)/.installed: pyproject.toml
	@echo "installing into $(VENV); PyTorch alone takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
