"""Layers with hand-written gradients over two flat vectors."""

from mpidp.nn.layer import Layer, Parameter
from mpidp.nn.model import Loss, Model

__all__ = ["Layer", "Loss", "Model", "Parameter"]
