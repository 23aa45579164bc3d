"""Engine: evaluation. Bundles on suites, fanned out over Ray: tables, plots, one HTML report."""
