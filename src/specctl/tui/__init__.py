"""The terminal interface: screens and widgets over the fold of `chat/fold.py`. It never calls a model."""
