# The commands of this repository. Everything happens in .venv; nothing needs root.
.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-random test-long coverage lint check contract faults fuzz bench pictures clean

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINS := pyproject.toml constraints.txt scripts/install.sh

export PYTHON
unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of Python processes; compiled files spare each a tenth of a second

help:
	@echo "make demo      install, train twice (gradients by hand, autograd), show the results"
	@echo "make quick     install, run what a commit should pass: no service, no browser, no PostgreSQL, no net of size"
	@echo "make test      install, run the test suite: under ten minutes on two cores"
	@echo "make test-long install, run the tests that take long: kills, restores, random calls, training"
	@echo "make test-random  the tests of make test in random order; SEED=7 repeats an order"
	@echo "make coverage  the lines that make quick reaches, in percent; make test-long ends with it"
	@echo "make install   make .venv; the command is .venv/bin/gradq"
	@echo "make lint      format, lint, types, import contracts, security lint (bandit)"
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

# SQLite alone stands for both databases here
QUICK := -m "not slow and not long and not postgres"

quick: $(DEV)
	@$(PY) -m pytest -n 2 --dist worksteal $(QUICK)

# four at once on any machine, also where there are two cores: much of a test's time is waiting for processes
test: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m "not long"

# an order that fails shows a test that needs another, or leaves something behind; pytest prints the seed
test-random: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m "not long" -p randomly $(addprefix --randomly-seed=,$(SEED))

test-long: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m long
	@$(MAKE) --no-print-directory coverage

# of the quick tests, in the processes that test: counting costs these half of their time again, and lines that services,
# trainers and browsers run in processes of their own are not counted
coverage: $(DEV)
	@$(PY) -m pytest -n 2 --dist worksteal $(QUICK) -q --cov --cov-report=
	@echo "make quick reaches $$($(PY) -m coverage report --format=total) % of the lines of api, shared, worker and gradq"

lint: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file tests/mypy.ini
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive api shared worker gradq

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
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .coverage .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find api worker shared gradq tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): $(PINS)
	@sh scripts/install.sh
	@touch $@

$(DEV): $(PINS)
	@sh scripts/install.sh dev
	@touch $(RUNTIME) $@
