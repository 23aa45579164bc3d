"""Scalable evaluation and serving of pre-trained models on Ray.

A spec names methods, an engine runs them on Ray, and a bundle carries the result to the next engine.
"""

__version__ = "0.1.0"
