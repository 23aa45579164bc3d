"""Engine: Ray Tune. A spec in, a run folder out: candidates, a leaderboard, soups, and the bundle of the winner."""
