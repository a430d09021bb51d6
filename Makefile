# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help install browser demo test slow lint format bench bench-envs clean

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

install: $(VENV)/.installed  ## make the virtual environment, pinned by constraints.txt

# torch first and alone: the pin picks the CPU build where one is offered, and nothing later replaces it
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install    ## the whole loop in minutes: pretrain, SFT, reward model, PPO, DPO; writes lit-rlhf-demo/
	$(BIN)/lit-rlhf demo --preset quick

# the labelling page is tested in a real one; where it cannot be had, those tests are skipped and say so
browser:         ## Chromium for the tests of the labelling page, from Debian's packages where there is none
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
		if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
		echo "installing Debian's chromium for the tests of the labelling page"; \
		{ $$as_root apt-get update -qq && \
		  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
		} >/dev/null || echo "apt-get could not install chromium: the tests of the labelling page are skipped"; \
	else \
		echo "no Chromium here, and no right to install one: the tests of the labelling page are skipped"; \
	fi

test: install browser  ## the tests
	$(BIN)/python -m pytest -m "not slow" -n 2

slow: install browser  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: install    ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install bench-envs  ## speed and memory against TRL and generate: takes hours; goes on where it was stopped
	for name in overhead preference reward sft rollout ppo; do \
		$(BIN)/python -m benchmarks.$$name --out benchmarks/results/$$name.json || exit 1; \
	done

bench-envs: .venv-trl/.installed .venv-trl-ppo/.installed  ## the environments of the peers that the benchmarks run against

.venv-trl/.installed: benchmarks/speed/requirements-trl.txt constraints.txt
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	touch $@

# TRL 1.12.0 is the last release with PPO
.venv-trl-ppo/.installed: benchmarks/ppo_studies/requirements-trl.txt constraints.txt
	$(PYTHON) -m venv .venv-trl-ppo
	.venv-trl-ppo/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-trl-ppo/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	touch $@

clean:           ## remove what make made
	rm -rf $(VENV) .venv-trl .venv-trl-ppo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
