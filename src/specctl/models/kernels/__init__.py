"""Kernels of our own for drafts in 4 bits, where the processor and a C compiler are there for them."""
