"""Where 0.1.0 documented the scores of a direction; they are at home in directions/scores.py."""

from .directions.scores import Answers, Estimate, Scores

__all__ = ["Answers", "Estimate", "Scores"]
