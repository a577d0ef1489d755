# Every target sets up what it needs in .venv, once, and again when setup.py changes.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
DATA ?= auto
SEEDS ?= 1 2 3
JOBS ?= 2

python := .venv/bin/python
extras := .venv/extras

# $(call option,NAME,--flag): the flag and the variable's value, where the variable is set
option = $(if $($(1)),$(2) "$($(1))")

options = $(strip $(call option,METHOD,--method) \
	$(call option,DIRECTION,--direction) $(call option,EPSILON,--epsilon) \
	$(call option,SEED,--seed) $(call option,UPDATES,--updates) $(call option,DEVICE,--device) \
	$(call option,DATA_DIR,--data-dir) $(call option,OUT,--out) $(if $(findstring --overwrite,$(ARGS)),,--resume) $(ARGS))

# of networks on images
network = $(strip $(call option,MODEL,--model) $(call option,AUGMENT,--augment) \
	$(call option,WIDTH,--width))

# of few labels
few = $(strip $(call option,LABELS,--labels) $(call option,PRESET,--preset))

# of the targets that use all labels: refuses LABELS, which would be for another
all_labels = @$(if $(LABELS),echo 'LABELS means nothing to $@: see $(@:sup=semisup)' >&2; exit 2)

# of the targets that start many runs
many = $(strip --jobs $(JOBS) $(call option,UPDATES,--updates) \
	$(call option,DEVICE,--device) $(call option,DATA_DIR,--data-dir) $(ARGS))

# where DEVICE=cuda: CuPy's and cuDNN's extra for the newest CUDA that the NVIDIA driver can run
cupy := $(if $(filter cuda,$(DEVICE)),$(extras)/$(or $(shell nvidia-smi 2>/dev/null \
	| sed -n 's/.*CUDA[A-Z ]* Version *: *\([0-9]*\).*/\1/p' \
	| awk '$$1 >= 12 { print $$1 == 12 ? "cuda12" : "cuda13"; exit }'),no-driver))

.NOTPARALLEL:
.PHONY: help synthetic mnist-sup mnist-semisup cifar10-sup cifar10-semisup svhn-semisup few-labels \
	table1 table2 table3 table4 table5 table6 search search-semisup audit picture curves \
	bench bench-conv bench-curvature test lint clean

help:
	@echo 'usage: make TARGET [VARIABLE=value ...]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "\n  %-15s %s\n", $$1, $$2 } \
		/^##/ { printf "  %-15s %s\n", "", substr($$0, 4) }' $(MAKEFILE_LIST)

synthetic: $(extras)/experiments ## the paper's figure 1 as a picture and a film, in a minute; needs no data
##   OUT=runs/synthetic   ARGS= as below
	$(python) -m experiments.synthetic $(call option,OUT,--out) $(ARGS)

mnist-sup: $(cupy) $(extras)/experiments ## train on MNIST and compare with the paper; continues a run cut short
##   METHOD=vat        mle, rpt, at-l2, at-linf or vat
##   DIRECTION=exact   exact or finite-difference
##   EPSILON= SEED= UPDATES= OUT= (the run's folder)
##   DEVICE=auto       auto, cpu or cuda
##   DATA=auto         auto, mnist or digits
##   DATA_DIR=         where the data set's files are, if they are there already
##   ARGS=             further options; ARGS=--help lists them all
	$(all_labels)
	$(python) -m experiments.mnist_sup --data $(DATA) $(options)

mnist-semisup: $(cupy) $(extras)/experiments ## train on MNIST with few labels; continues a run cut short
##   LABELS=100        labelled examples
##   METHOD=vat        mle, rpt, vat or vat-entmin
##   PRESET=paper      paper or iclr2016
##   DIRECTION=        finite-difference (default) or exact
##   EPSILON= SEED= UPDATES= OUT= DEVICE= DATA= DATA_DIR= ARGS= as above
	$(python) -m experiments.mnist_semisup --data $(DATA) $(few) $(options)

cifar10-sup: $(cupy) $(extras)/experiments ## train on CIFAR-10 with all labels; continues a run cut short
##   METHOD=vat        mle (dropout only), rpt or vat
##   MODEL=conv-large  conv-small or conv-large
##   AUGMENT=yes       yes or no: images moved and mirrored at random
##   WIDTH=1           factor of the channels: 0.25 makes a CPU enough
##   HOLDOUT=          training images to test on, where the test batch is missing: 10000
##   DIRECTION= EPSILON= SEED= UPDATES= OUT= DEVICE= DATA_DIR= ARGS= as above
	$(all_labels)
	$(python) -m experiments.cifar10_sup $(network) $(call option,HOLDOUT,--holdout) $(options)

cifar10-semisup: $(cupy) $(extras)/experiments ## train on CIFAR-10 with few labels; continues a run cut short
##   LABELS=4000       labelled images
##   METHOD=vat        mle, rpt, vat or vat-entmin
##   MODEL=conv-small  AUGMENT=no WIDTH= HOLDOUT= and the others as above
	$(python) -m experiments.cifar10_semisup $(few) $(network) $(call option,HOLDOUT,--holdout) \
		$(options)

svhn-semisup: $(cupy) $(extras)/experiments ## train on SVHN with few labels; continues a run cut short
##   LABELS=1000       METHOD=vat MODEL=conv-small AUGMENT=no WIDTH= and the others as above
	$(python) -m experiments.svhn_semisup $(few) $(network) $(options)

few-labels: $(extras)/experiments ## the scikit-learn estimator and its rivals on 8x8 digits, 5 labels of each
##   OUT=              ARGS= as above
	$(python) -m experiments.few_labels $(call option,OUT,--out) $(ARGS)

table1: $(cupy) $(extras)/experiments ## all methods, all seeds: the paper's Table 1; skips the runs that are finished
##   SEEDS="1 2 3"     UPDATES= DEVICE= DATA= ARGS= as above
##   JOBS=2            runs at once, each with one thread
	$(python) -m experiments.table1 --data $(DATA) --seeds $(SEEDS) $(many)

table2: $(cupy) $(extras)/experiments ## CIFAR-10 with all labels: the paper's Table 2; needs a GPU
##   SEEDS="1 2 3"     JOBS=2 WIDTH= HOLDOUT= UPDATES= DEVICE= DATA_DIR= as above
##   ARGS=             further options: --rows picks rows and seeds, --help lists them
	$(python) -m experiments.table2 --seeds $(SEEDS) $(call option,WIDTH,--width) \
		$(call option,HOLDOUT,--holdout) $(many)

table3: $(cupy) $(extras)/experiments ## few labels, RPT and VAT with either direction, all seeds: the paper's Table 3
##   SEEDS="1 2 3"     JOBS=2 UPDATES= DEVICE= DATA= ARGS= as above
	$(python) -m experiments.table3 --data $(DATA) --seeds $(SEEDS) $(many)

table4: $(cupy) $(extras)/experiments ## SVHN and CIFAR-10, few labels: the paper's Table 4; needs a GPU
##   SEEDS="1 2 3"     JOBS=2 WIDTH= HOLDOUT= UPDATES= DEVICE= DATA_DIR= ARGS= as for table2
	$(python) -m experiments.table4 --seeds $(SEEDS) $(call option,WIDTH,--width) \
		$(call option,HOLDOUT,--holdout) $(many)

table5: $(cupy) $(extras)/experiments ## the same with augmentation, Conv-Large: the paper's Table 5
##   SEEDS="1 2 3"     JOBS=2 WIDTH= HOLDOUT= UPDATES= DEVICE= DATA_DIR= ARGS= as for table2
	$(python) -m experiments.table5 --seeds $(SEEDS) $(call option,WIDTH,--width) \
		$(call option,HOLDOUT,--holdout) $(many)

table6: $(cupy) $(extras)/experiments ## CIFAR-10, few labels, by power iterations: the paper's Table 6
##   SEEDS="1 2 3"     JOBS=2 WIDTH= HOLDOUT= UPDATES= DEVICE= DATA_DIR= ARGS= as for table2
	$(python) -m experiments.table6 --seeds $(SEEDS) $(call option,WIDTH,--width) \
		$(call option,HOLDOUT,--holdout) $(many)

search: $(cupy) $(extras)/experiments ## the size of the perturbation, by short runs on held-out images
##   JOBS=2            UPDATES= DEVICE= DATA= ARGS= as above
	$(python) -m experiments.search --data $(DATA) $(many)

search-semisup: $(cupy) $(extras)/experiments ## few labels: what matters, by short runs on held-out images
##   LABELS=100        SEEDS="1 2 3" JOBS=2 UPDATES= DEVICE= DATA= ARGS= as above
	$(python) -m experiments.search_semisup --data $(DATA) --seeds $(SEEDS) \
		$(call option,LABELS,--labels) $(many)

audit: $(cupy) $(extras)/experiments ## what a power iteration finds: exact curvature of trained networks
##   SEED=1            of the runs audited; shorter ones are trained where none are finished
##   JOBS=2            DEVICE= DATA= DATA_DIR= OUT= ARGS= as above
	$(python) -m experiments.audit --data $(DATA) --jobs $(JOBS) $(call option,SEED,--seed) \
		$(call option,DEVICE,--device) $(call option,DATA_DIR,--data-dir) \
		$(call option,OUT,--out) $(ARGS)

picture: $(extras)/experiments ## virtual adversarial perturbations of images, from the folders of runs
##   WITH=             a run with VAT: on MNIST, CIFAR-10 or SVHN
##   WITHOUT=          a run without it, to compare with
##   EPSILON= DATA_DIR= OUT= (the picture) ARGS= as above
	$(python) -m experiments.picture $(call option,WITHOUT,--without) $(call option,WITH,--with) \
		$(call option,EPSILON,--epsilon) $(call option,DATA_DIR,--data-dir) \
		$(call option,OUT,--out) $(ARGS)

curves: $(extras)/experiments ## error and R_vadv over training, of several runs in one figure
##   RUNS=             the folders of runs; RUNS='"VAT=runs/..." "MLE=runs/..."' names them
##   OUT=              ARGS= as above
	$(python) -m experiments.curves $(RUNS) $(call option,OUT,--out) $(ARGS)

bench: $(extras)/bench ## time one update beside PyTorch and JAX
##   ARGS=--json       one JSON object as the last line
	$(python) -m experiments.bench $(ARGS)

bench-conv: $(extras)/bench ## time one update of Conv-Small, and its peak memory, beside PyTorch
##   ARGS=--json       one JSON object as the last line; ARGS=--help lists the options
	$(python) -m experiments.bench_conv $(ARGS)

bench-curvature: $(extras)/bench ## time the exact spectra of 10,000 images beside torch.func
##   ARGS=--json       one JSON object as the last line
##   DATA_DIR=         as above
	$(python) -m experiments.bench_curvature $(call option,DATA_DIR,--data-dir) $(ARGS)

test: $(extras)/test ## run the tests
##   ARGS=             options of pytest
	OPENBLAS_NUM_THREADS=1 $(python) -m pytest -n auto $(ARGS)

lint: $(extras)/dev ## check style and formatting
	$(python) -m ruff check .
	$(python) -m ruff format --check .

clean: ## remove .venv and all that is made anew; runs are kept
	rm -rf .venv build *.egg-info .hypothesis .pytest_cache .ruff_cache
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
