"""Pure functions of scores and truth. Fractions in 0..1; percent only in printed tables."""
