"""Which installed packages papers read: those that this one needs, so that every machine has them."""

PACKAGES = ("sklearn", "scipy", "matplotlib", "networkx")
"""Their numbers are the labels."""
MODULES = (
    "sklearn.linear_model", "sklearn.ensemble", "sklearn.metrics", "sklearn.cluster", "sklearn.preprocessing",
    "scipy.optimize", "scipy.signal", "scipy.linalg", "scipy.interpolate",
    "matplotlib.axes", "matplotlib.axis", "matplotlib.patches", "matplotlib.transforms", "matplotlib.colors",
    "matplotlib.image",
    "networkx.algorithms.approximation", "networkx.algorithms.centrality", "networkx.algorithms.community",
    "networkx.algorithms.flow", "networkx.classes",
)  # fmt: skip
"""A few of each package, read in seconds."""
