"""Layers with hand-written gradients over two flat vectors."""

from mpidp.nn.layer import Layer, Parameter
from mpidp.nn.model import Loss, Model, NotFinite

__all__ = ["Layer", "Loss", "Model", "NotFinite", "Parameter"]
