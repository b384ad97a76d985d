.PHONY: install test check bench schema mutants verify-long

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

# The runs behind docs/figures.md: 1,000 of the right engine, each broken sampler with 100 seeds.
verify-long:
	OMP_NUM_THREADS=1 SPECCTL_TEST_LONG=1 python -m pytest tests/equivalence/test_false_alarms.py tests/equivalence/test_sampled.py
