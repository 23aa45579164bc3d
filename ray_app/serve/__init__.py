"""The serve engine: a bundle behind one HTTP endpoint on Ray Serve."""
