"""Engine: Ray Tune. A spec in, a run folder out: candidates, leaderboard, soups, the winner's bundle."""
