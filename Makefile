.PHONY: install test check bench schema

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
