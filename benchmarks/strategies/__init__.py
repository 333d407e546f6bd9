"""Every strategy, route and encoding that the user selects, on one model and data set: `__main__.py`."""
