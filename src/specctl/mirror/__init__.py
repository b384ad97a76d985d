"""Mirror-SD: the draft goes on while the target verifies (`drafters/mirror.py`)."""
