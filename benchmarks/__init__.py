"""Speed against peers, area by area: `python -m benchmarks.methods [--quick]`; see benchmarks/_pairs.py."""
