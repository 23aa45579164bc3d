"""The whole of it in a few minutes: stream, score, sweep, soup, evaluate, serve, report."""
