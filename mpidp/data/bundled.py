"""The sets inside scikit-learn: real, small, nothing to fetch."""

from typing import Any

import numpy as np

from mpidp.data.schema import Data, Request
from mpidp.data.tables import table_data
from mpidp.errors import UserError
from mpidp.options import NoOptions


def digits(options: NoOptions, request: Request) -> Data:
    """1,797 digits by hand, (8, 8, 1) in [0, 1], 10 classes (Alpaydin and Kaynak 1998, doi:10.24432/C50P49)."""
    found = _datasets("digits").load_digits()
    images = found.images.astype(np.uint8)  # 0 … 16
    return table_data("digits", (images, found.target), None, request, "classes", scale=1 / 16)


def diabetes(options: NoOptions, request: Request) -> Data:
    """442 patients, 10 features, the disease after a year (Efron et al. 2004, doi:10.1214/009053604000000067)."""
    x, y = _datasets("diabetes").load_diabetes(return_X_y=True, scaled=False)
    return table_data("diabetes", (x, y), None, request, "values")


def breast_cancer(options: NoOptions, request: Request) -> Data:
    """569 tumours, 30 features, 0 malignant or 1 benign (Wolberg et al. 1995, doi:10.24432/C5DW2B)."""
    x, y = _datasets("breast-cancer").load_breast_cancer(return_X_y=True)
    return table_data("breast-cancer", (x, y), None, request, "classes")


def _datasets(name: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError:
        raise UserError(f"--data {name} is part of scikit-learn: pip install 'mpidp[data]'") from None
    return datasets
