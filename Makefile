# demo and test set up all that they need; a second call finds it there.
VENV   := .venv
CORES  ?= all
# An interpreter that the locked packages have wheels for. PYTHON=/path/to/python3 overrides.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
            $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

# A process for each core, up to four; a file's tests share what they make, so that they stay together and in order.
PYTEST := $(VENV)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Containers often tell Python to keep nothing that it compiles. Each of a run's processes, a hundred of them, would then
# compile all libraries again, which is more than half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast bench bench-truth bench-real lint schema clean

demo: $(VENV)/.installed report/niivue.umd.js
	$(VENV)/bin/snakemake --cores $(CORES)
	@echo
	@echo "The report: $(CURDIR)/results/report/index.html"

test: $(VENV)/.installed-dev report/niivue.umd.js
	@bash tests/install_debian_packages.sh
	$(PYTEST)

# While working: no cluster, no browser, no whole study, nothing that takes longer than a few seconds.
test-fast: $(VENV)/.installed-dev
	$(PYTEST) tests/unit -m "not slow"

bench: $(VENV)/.installed-dev
	@for script in $(filter-out $(patsubst %,benchmarks/bench_%.py,measurement truth real rate_distortion gpu),$(wildcard benchmarks/bench_*.py)); do echo "== $$script"; $(VENV)/bin/python $$script || exit 1; done

# The standing benchmark: an hour on 2 cores (an hour and a half without AVX-512); go on with the same command after an interruption.
# ANATOMIES=folder of whole-head label maps, or ANATOMIES=embedded; SEED=2 evaluates on another cohort; PARTICIPANTS=32 tries it out.
bench-truth: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/bench_truth.py $(if $(ANATOMIES),--anatomies $(ANATOMIES)) $(if $(SEED),--seed $(SEED)) $(if $(PARTICIPANTS),--participants $(PARTICIPANTS))

# Real heads: five studies that share their preprocessed scans and each leave out another fifth of the participants.
bench-real: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/bench_real.py $(BIDS) $(if $(LABELS),--labels $(LABELS)) $(if $(PARTICIPANTS),--participants $(PARTICIPANTS))

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(VENV)/bin/snakemake --lint

schema: $(VENV)/.installed
	$(VENV)/bin/python -m brainscm.config_files

$(VENV)/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "BrainSCM needs Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@# Nothing is compiled ahead: Python compiles the modules that it imports, a fraction of all, when it first does.
	@echo "Installing the pinned packages into $(VENV) (a minute or two) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --requirement requirements.lock
	@# The scripts find the library by themselves; this line gives it to python -m and to the tests.
	@echo "$(CURDIR)/scripts" > $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/brainscm.pth
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --requirement requirements-dev.lock
	@touch $@

# What draws volumes in 3D in the report, from its own package (BSD-2-Clause). Without npm the report goes without 3D.
NIIVUE        := @niivue/niivue@0.69.0
NIIVUE_SHA256 := 47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af
report/niivue.umd.js:
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT; \
	  if (cd "$$folder" && npm pack --silent $(NIIVUE) && tar xzf *.tgz) > /dev/null 2>&1; then \
	    echo "$(NIIVUE_SHA256)  $$folder/package/dist/niivue.umd.js" | sha256sum --check --quiet && \
	    cp "$$folder/package/dist/niivue.umd.js" $@; \
	  else echo "No npm, or no network: the report will have no 3D (make $@ fetches it later)."; fi

clean:
	rm -rf results work .snakemake
