"""The contract suite of each family, for everyone's methods: `check_head(lambda: NearestMean())` in a test.

Each suite is one function. It takes what makes a fresh method, so that nothing is carried from one check to
the next, and raises AssertionError with a sentence about what does not hold. None of them needs a network,
Ray or a test runner.
"""
