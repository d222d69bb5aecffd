"""The one evaluator: for validation, evaluation and every later path."""
