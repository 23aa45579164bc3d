"""Linear regression of many tasks on one shared low-dimensional representation.

    min over B [d, k], w_t [k] of  sum_t || X_t B w_t - y_t ||^2

By turns: each w_t by least squares with B fixed; B by conjugate gradients with all w_t fixed, on
sum_t X_t^T X_t B w_t w_t^T = sum_t X_t^T y_t w_t^T, which needs no matrix of size dk x dk.
"""

from collections.abc import Sequence

import numpy as np

# Relative residual at which the gradients' solution is good enough for one turn.
_ENOUGH = 1e-8


def multitask(
    xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], rank: int, turns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis float64 [d, k] and the tasks' heads [k, t] in it.

    Args:
        xs: A task's inputs [n_t, d] each.
        ys: Its values [n_t].
        rank: k.
        turns: How often both sides are solved.
    """
    gram = np.stack([x.T @ x for x in xs])
    moment = np.stack([x.T @ y for x, y in zip(xs, ys, strict=True)])
    rows = np.array([len(x) for x in xs], dtype=np.float64)
    # Where inputs are white, X_t^T y_t / n_t is B w_t but for noise, which weighs less with more rows.
    basis = np.linalg.svd((moment / np.sqrt(rows)[:, None]).T, full_matrices=False)[0][:, :rank]
    heads = _heads(gram, moment, basis)
    for _ in range(turns):
        basis = np.linalg.qr(_basis(gram, moment, basis, heads))[0]
        heads = _heads(gram, moment, basis)
    return basis, heads.T


def head_on(x: np.ndarray, y: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the head [k] of one more task, the basis fixed."""
    solution: np.ndarray = np.linalg.lstsq(x @ basis, y, rcond=None)[0]
    return solution


def _heads(gram: np.ndarray, moment: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Each task's head [t, k]; of least norm where its rows do not determine it."""
    inner = basis.T @ gram @ basis
    return np.einsum("tij,tj->ti", np.linalg.pinv(inner, hermitian=True), moment @ basis)


def _basis(gram: np.ndarray, moment: np.ndarray, start: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """The basis [d, k] for these heads, by conjugate gradients from where it was."""

    def normal(b: np.ndarray) -> np.ndarray:
        return np.einsum("tdk,tk,tl->dl", gram @ b, heads, heads, optimize=True)

    wanted = moment.T @ heads
    b = start.copy()
    residual = wanted - normal(b)
    direction, size = residual, float((residual**2).sum())
    enough = _ENOUGH**2 * float((wanted**2).sum())
    for _ in range(b.size):
        if size <= enough:
            break
        image = normal(direction)
        step = size / float((direction * image).sum())
        b = b + step * direction
        residual = residual - step * image
        after = float((residual**2).sum())
        direction, size = residual + (after / size) * direction, after
    return b
