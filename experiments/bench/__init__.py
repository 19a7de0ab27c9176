"""What measures: speed (`python -m experiments.bench`, .grading, .transformers) and how often the
mathematics grader is wrong (.grader_rates, by the .rewrites of reference answers)."""
