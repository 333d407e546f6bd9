"""Ranks under supervision: `python -m mpidp.launch -n P -- OPTIONS` starts them, and again after a failure."""
