# Every target sets up what it needs in .venv, once, and again when setup.py changes.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
python := .venv/bin/python
extras := .venv/extras

training := mnist-sup mnist-semisup cifar10-sup cifar10-semisup svhn-semisup
sweeps := table1 table2 table3 table4 table5 table6 search search-semisup audit figure2 figure3 \
	figure4 figure4-cifar10 figure5 figure6 figure6-cifar10 figure7 figure7-cifar10 figure8
figures := synthetic few-labels picture curves results
benches := bench bench-updates bench-conv bench-curvature bench-growth \
	bench-gpu

# Each is passed on as a flag: EPSILON=3 as --epsilon 3. The target refuses what it does not know.
one_value := METHOD DIRECTION EPSILON SEED UPDATES DEVICE DATA DATA_DIR OUT LABELS PRESET MODEL \
	AUGMENT WIDTH HOLDOUT JOBS WITH WITHOUT COUNT
variables := $(one_value) SEEDS RUNS ARGS PYTHON
given := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
$(if $(filter-out $(variables),$(given)),$(error $(firstword $(filter-out $(variables),$(given))) \
	is no variable of this Makefile; there are $(variables)))
# A DATA or SEED that the shell exports for something else would train another network in silence.
$(foreach v,$(filter-out $(given) PYTHON,$(variables)),$(eval $(v) :=))

$(sweeps): JOBS := $(or $(JOBS),2)
flag = --$(shell echo $(1) | tr A-Z_ a-z-)
run = $(python) -m experiments $@ $(RUNS) $(foreach v,$(one_value),$(if $($(v)),$(call flag,$(v)) \
	"$($(v))")) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

# where DEVICE=cuda: CuPy's and cuDNN's extra for the newest CUDA that the NVIDIA driver can run
cupy := $(if $(filter cuda,$(DEVICE)),$(extras)/$(or $(shell nvidia-smi 2>/dev/null \
	| sed -n 's/.*CUDA[A-Z ]* Version *: *\([0-9]*\).*/\1/p' \
	| awk '$$1 >= 12 { print $$1 == 12 ? "cuda12" : "cuda13"; exit }'),no-driver))

.NOTPARALLEL:
.PHONY: help $(training) $(sweeps) $(figures) $(benches) soak test coverage mutation lint clean

help:
	@sed -n 's/^## \{0,1\}//p' $(MAKEFILE_LIST)

## usage: make TARGET [VARIABLE=value ...]
##
##   mnist-sup         train on MNIST and compare with the paper; continues a run cut short
##                     METHOD=vat DIRECTION=exact EPSILON= SEED= UPDATES= DATA=auto DATA_DIR=
##                     DEVICE=auto OUT= (the run's folder)   ARGS=--help lists all options
##   mnist-semisup     the same with few labels: LABELS=100 PRESET=paper
##   cifar10-sup       CIFAR-10: MODEL=conv-large AUGMENT=yes WIDTH=1 HOLDOUT= (test images
##                     taken from the training images, where the test batch is missing)
##   cifar10-semisup, svhn-semisup    the same with few labels
$(training): $(cupy) $(extras)/experiments
	$(run) $(if $(findstring --overwrite,$(ARGS)),,--resume)

##
##   table1 ... table6 the paper's tables: all methods, all seeds; skips the runs that are finished
##                     SEEDS="1 2 3" JOBS=2 (at once, each with one thread) UPDATES= WIDTH= ...
##   figure2 ... figure8       the paper's figures, of many runs; figure4, 6, 7 also as -cifar10
##   search, search-semisup    settings chosen on held-out images
##   audit             what a power iteration finds: exact curvature of trained networks
$(sweeps): $(cupy) $(extras)/experiments
	$(run)

##
##   synthetic         figure 1 as a picture and a film, in a minute; needs no data
##   few-labels        the scikit-learn estimator and its rivals on 8x8 digits, 5 labels of each
##   picture           perturbed images, of the newest runs: WITH= WITHOUT= (folders) EPSILON=
##   results           all tables and figures on one page, docs/results.html
##   curves            error and R_vadv over training, of the newest runs: RUNS=
$(figures): $(extras)/experiments
	$(run)

##
##   bench, bench-updates, bench-conv, bench-curvature, bench-growth    time beside PyTorch
##   bench-gpu         the same on a GPU, also as a CUDA graph: DEVICE=cuda
$(benches): $(cupy) $(extras)/bench
	$(run)

##
##   soak              long checks: kills, damaged files, full disks, ...; COUNT= (trials of each)
##                     RUNS= (which: kills fuzz growth threads hostile downloads)
soak: $(extras)/experiments
	$(run)

##
##   test              run the tests; ARGS= options of pytest
test: $(extras)/test
	OPENBLAS_NUM_THREADS=1 $(python) -m pytest -n auto $(ARGS)

##   coverage          run the tests and print the lines they cover
coverage: $(extras)/test
	OPENBLAS_NUM_THREADS=1 $(python) -m pytest -n auto --cov=minivat --cov=experiments \
		--cov-report=term $(ARGS)

##   mutation          change the library in 1,100 places, one at a time: do tests notice? COUNT=
mutation: $(extras)/test $(extras)/mutation
	OPENBLAS_NUM_THREADS=1 $(python) -m tests.mutation $(if $(COUNT),--count $(COUNT)) $(ARGS)

##   lint              check style, formatting and types
lint: $(extras)/dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy minivat

##   clean             remove .venv and all that is made again; runs are kept
clean:
	rm -rf .venv build *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache .coverage*
	find . -name __pycache__ -prune -exec rm -rf {} +

$(extras)/%: setup.py .venv/ready
	@echo 'setting up .venv for "$*" (once; this may take minutes)'
	@$(python) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@mkdir -p $(extras) && touch $@

$(extras)/no-driver:
	@echo 'DEVICE=cuda needs an NVIDIA driver for CUDA 12 or newer, and nvidia-smi reports none' >&2; exit 1

.venv/ready:
	@test -n '$(PYTHON)' || { echo 'minivat needs Python 3.10 or newer, and there is none on the PATH' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo 'minivat needs Python 3.10 or newer, and $(PYTHON) is not' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) lacks the module venv (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv && touch $@
