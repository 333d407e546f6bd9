"""What CuPy has of NumPy: `python -m tests.device.api` writes it anew, where CuPy is installed (with no GPU)."""

import inspect
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("cupy") / "api.json"


def main() -> None:
    import cupy

    functions: dict[str, list[str] | str] = {}
    for name in sorted(set(dir(np)) & set(dir(cupy))):
        found = getattr(cupy, name)
        if isinstance(found, cupy.ufunc):
            functions[name] = "ufunc"
        elif callable(found) and not inspect.isclass(found) and name[0] != "_":
            try:
                functions[name] = list(inspect.signature(found).parameters)
            except (TypeError, ValueError):
                continue
    methods = [name for name in dir(cupy.ndarray) if name[0] != "_" and hasattr(np.ndarray, name)]
    text = json.dumps({"version": cupy.__version__, "functions": functions, "methods": methods}, indent=0)
    FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
