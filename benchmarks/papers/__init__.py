"""What the papers claim, at our scale: `__main__.py`."""
