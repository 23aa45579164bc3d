"""The data engine: read → transform → encode → score → Parquet, and one-pass fits, here or on Ray Data.

A dataset is read in units (a file and a range of its rows). A unit is read, computed, written and committed
as one, which is what makes every row appear exactly once without asking the data for an id.
"""
