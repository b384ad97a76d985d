.PHONY: install test check bench schema mutants

install:
	pip install -c constraints.txt -e '.[dev]'

test:
	python -m pytest

check: test
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench:
	python benchmarks/foundation.py

schema:
	python -m specctl.profile profiles/profile.schema.json

# Hours rather than minutes; what survives, and why: docs/mutants.md.
mutants:
	pip install -c constraints.txt -e '.[dev,mutants]'
	OMP_NUM_THREADS=1 mutmut run --max-children 1
	mutmut results
