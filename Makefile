# The two commands: `make run` and `make test`. Everything lives in .venv and build/; nothing else is touched.
PYTHON ?= python3.11
BIN := .venv/bin
# Files of tests run side by side; 0 for one after the other in one process.
TEST_PROCESSES ?= 2
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_WAIT_POLICY := PASSIVE
UNSEEN := data/unseen/north-fence 1.mp4

.PHONY: run test setup data clean

run: setup data
	herdlight train --no-summary
	herdlight score "$(UNSEEN)" --out highlights
	herdlight summary

test: .venv/test-ready data
	python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

setup: .venv/ready

data: .venv/ready
	dvc pull --quiet data.dvc

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/test-ready: .venv/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,tensorrt,int8]'
	touch $@

clean:
	rm -rf .venv build highlights
