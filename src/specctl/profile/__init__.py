"""Profiles: which models, which drafter, which sampling. YAML in, a validated frozen value out."""
