# The commands of this repository. Everything is installed into .venv; no command needs root.
.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-random test-long coverage lint check contract faults greedy fuzz bench pictures clean

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINS := pyproject.toml constraints.txt scripts/install.sh

export PYTHON
# the tests start hundreds of Python processes; compiled files save each a tenth of a second
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo      install, train twice (manual gradients, autograd), show the results"
	@echo "make quick     install, run the tests to pass before a commit: no service, browser, PostgreSQL or large model"
	@echo "make test      install, run the test suite: under ten minutes on two cores"
	@echo "make test-long install, run the long tests: kills, restores, random requests, training"
	@echo "make test-random  the tests of make test in random order; SEED=7 repeats an order"
	@echo "make coverage  percentage of lines that make quick reaches; make test-long ends with it"
	@echo "make install   create .venv; the command is .venv/bin/gradq"
	@echo "make lint      formatting, lint, types, import contracts, security lint (bandit), prose; JavaScript with npx"
	@echo "make check     lint, test and test-long, as CI does"
	@echo "make contract  check a live service against the OpenAPI document with thousands of random requests"
	@echo "make faults    inject faults into a running service: SEED=7 FAULTS=200 DATABASE=sqlite or postgresql,"
	@echo "               STORE=folder or s3, HOSTS=1 or 2, ONLY=KillApi,CutStore for some kinds of faults"
	@echo "make greedy    let one owner try everything against another: MINUTES=10 DATABASE=sqlite or postgresql ONLY=half-sent"
	@echo "make fuzz      send a hundred thousand random and mutated bodies to a live API: SEED=7"
	@echo "make bench     run the benchmarks; each prints one line of JSON"
	@echo "make pictures  take the screenshots of the dashboard in docs/ again"
	@echo "make clean     remove .venv, caches and demo-output"

install: $(RUNTIME)

demo: $(RUNTIME)
	@$(VENV)/bin/gradq demo

# on SQLite only
QUICK := -m "not slow and not long and not postgres"

quick: $(DEV)
	@$(PY) -m pytest -n 2 --dist worksteal $(QUICK)

# four processes on any machine, even with two cores: tests spend much of their time waiting for processes
test: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m "not long"

# a failing order shows a test that depends on another one; pytest prints the seed
test-random: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m "not long" -p randomly $(addprefix --randomly-seed=,$(SEED))

test-long: $(DEV)
	@$(PY) -m pytest -n 4 --dist worksteal -m long
	@$(MAKE) --no-print-directory coverage

# of the quick tests, in the test processes only: lines that run in processes of services, trainers and browsers are not
# counted. Takes half as long again as make quick.
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
	$(PY) scripts/check_prose.py
	@sh scripts/lint_javascript.sh

check: lint test test-long

contract: $(DEV)
	@GRADQ_CONTRACT=full $(PY) -m pytest tests/contract -s

# takes some minutes: the fault campaign, then a queue of a thousand jobs whose broker is emptied and killed
faults: $(DEV)
	PYTHONPATH=tests $(PY) -m faults --faults $(or $(FAULTS),200) --database $(or $(DATABASE),sqlite) \
		--store $(or $(STORE),folder) --hosts $(or $(HOSTS),1) $(addprefix --only ,$(ONLY)) $(addprefix --seed ,$(SEED))
	QUEUED=1000 $(PY) -m pytest tests/faults/test_queue.py -q

greedy: $(DEV)
	PYTHONPATH=tests $(PY) -m faults.greedy --minutes $(or $(MINUTES),10) --database $(or $(DATABASE),sqlite) $(addprefix --only ,$(ONLY))

fuzz: $(DEV)
	@GRADQ_FUZZ=full GRADQ_FUZZ_SEED=$(SEED) $(PY) -m pytest tests/fuzz -s

bench: $(RUNTIME)
	@for script in $$(grep -l '__main__' benchmarks/*.py | grep -v against); do \
		$(PY) -m benchmarks.$$(basename $$script .py) || exit 1; \
	done

# of a service without other jobs; needs Chromium
pictures: $(DEV)
	@GRADQ_PICTURES=1 $(PY) -m pytest tests/browser/test_pictures.py -q

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .coverage* .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find api worker shared gradq tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): $(PINS)
	@sh scripts/install.sh
	@touch $@

$(DEV): $(PINS)
	@sh scripts/install.sh dev
	@touch $(RUNTIME) $@
