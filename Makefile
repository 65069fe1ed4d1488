# The commands of this repository. Everything happens in .venv; nothing needs root.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-long lint check contract faults fuzz bench pictures clean

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINS := pyproject.toml constraints.txt scripts/install.sh

export PYTHON

help:
	@echo "make demo      install, train twice (gradients by hand, autograd), show the results"
	@echo "make test      install, run the test suite: under ten minutes on two cores"
	@echo "make test-long install, run the tests that take long: kills, restores, random calls, training"
	@echo "make install   make .venv; the command is .venv/bin/gradq"
	@echo "make lint      format, lint, types, import contracts, security lint (bandit); JavaScript and CSS where npx is"
	@echo "make check     lint, test and test-long: what CI runs"
	@echo "make contract  thousands of random calls against a live service, on both databases: the OpenAPI document holds"
	@echo "make faults    a campaign of faults against the real parts: SEED=7 FAULTS=200 DATABASE=sqlite or postgresql"
	@echo "make fuzz      ten thousand random and mutated bodies against a live API: SEED=7"
	@echo "make bench     the benchmarks, one line of JSON each"
	@echo "make pictures  the pictures of the dashboard in docs/, anew"
	@echo "make clean     remove .venv, caches and demo-output"

install: $(RUNTIME)

demo: $(RUNTIME)
	@$(VENV)/bin/gradq demo

# four at once on any machine, also where there are two cores: much of a test's time is waiting for processes
test: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m "not long"

test-long: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m long

lint: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive api shared worker gradq
	@sh scripts/lint_javascript.sh

check: lint test test-long

contract: $(DEV)
	@GRADQ_CONTRACT=full $(PY) -m pytest tests/contract -s

# some minutes: the campaign, then a thousand queued jobs whose broker is wiped and killed
faults: $(DEV)
	PYTHONPATH=tests $(PY) -m faults --faults $(or $(FAULTS),200) --database $(or $(DATABASE),sqlite) $(addprefix --seed ,$(SEED))
	QUEUED=1000 $(PY) -m pytest tests/faults/test_queue.py -q

fuzz: $(DEV)
	@GRADQ_FUZZ=full GRADQ_FUZZ_SEED=$(SEED) $(PY) -m pytest tests/fuzz -s

bench: $(RUNTIME)
	@for script in $$(grep -l '__main__' benchmarks/*.py); do \
		$(PY) -m benchmarks.$$(basename $$script .py) || exit 1; \
	done

# of a service that holds nothing else; needs Chromium
pictures: $(DEV)
	@GRADQ_PICTURES=1 $(PY) -m pytest tests/browser/test_pictures.py -q

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find api worker shared gradq tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): $(PINS)
	@sh scripts/install.sh
	@touch $@

$(DEV): $(PINS)
	@sh scripts/install.sh dev
	@touch $(RUNTIME) $@
