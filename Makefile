# Two commands are enough: `make book` and `make test`. `make help` lists the others.

export OMP_NUM_THREADS = 1
export PYTHONHASHSEED = 0
export JUPYTER_PREFER_ENV_PATH = 1
export PYDEVD_DISABLE_FILE_VALIDATION = 1

BOOK = .venv-book/bin/python
FULL = .venv/bin/python
RUNNER = -n 2 --dist loadfile
PORT = 8000

.DEFAULT_GOAL = help
.PHONY: help book test test-students check style floor links lab serve notebooks students figure locks clean distclean venv venv-book venv-floor

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

book: venv-book ## build the website from the notebooks' stored outputs
	@$(BOOK) tools/stored.py notebooks
	@rm -rf _build/html _build/.doctrees
	@.venv-book/bin/jupyter-book build . --quiet -W --keep-going
	@echo "The book is in _build/html. Open _build/html/index.html in a browser, or run: make serve"

test: style book ## everything that CI runs
	$(FULL) -m pytest $(RUNNER) --nbval-lax --nbval-current-env tests notebooks

test-students: students ## execute the notebooks without solutions, too (every week; `make test` only reads them)
	$(FULL) -m pytest $(RUNNER) --nbval-lax --nbval-current-env _build/students

check: style ## what a contributor runs before each commit: style, types, fast tests
	$(FULL) -m pytest $(RUNNER) -m "not slow" tests

style: venv
	$(FULL) -m ruff check .
	$(FULL) -m ruff format --check .
	.venv/bin/lint-imports --no-logo
	$(FULL) -m mypy

floor: venv-floor ## the library's fast tests with the oldest torch that it allows
	.venv-floor/bin/python -m pytest $(RUNNER) --library -m "not slow" tests

links: venv-book ## look up every link that leads outside (needs a network)
	@.venv-book/bin/jupyter-book build . --builder linkcheck --quiet

lab: venv ## open the notebooks in JupyterLab
	$(FULL) -m jupyterlab notebooks

serve: venv-book ## the built book at http://localhost:8000 (PORT=… for another)
	@test -f _build/html/index.html || $(MAKE) --no-print-directory book
	@echo "The book is at http://localhost:$(PORT); stop with Ctrl+C."
	@$(BOOK) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html >/dev/null 2>&1

notebooks: venv ## re-execute the chapters whose code, library parts or records changed
	@$(FULL) -m tools.notebooks build

students: venv ## copies of the notebooks without solutions, in _build/students
	@$(FULL) -m tools.notebooks students

figure: venv ## the pictures of the README, of the landing page and of the page on the architecture
	@$(FULL) -m tools.readme_figure
	@$(FULL) -m tools.landing_figure
	@$(FULL) -m tools.drawings

locks: venv ## resolve pyproject.toml into the lock files; what is locked stays where it can
	@$(FULL) -m tools.locks

clean: ## remove what was built; the environments stay
	rm -rf _build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

distclean: clean ## remove the environments too
	rm -rf .venv .venv-book .venv-floor

venv:
	@sh tools/venv.sh .venv requirements.lock editable

venv-book:
	@sh tools/venv.sh .venv-book requirements-book.lock

venv-floor:
	@sh tools/venv.sh .venv-floor requirements-floor.lock
