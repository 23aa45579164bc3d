"""What a run leaves to be looked at: plots, and one self-contained HTML page around them."""
