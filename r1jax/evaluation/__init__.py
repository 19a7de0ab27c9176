"""Benchmarks by R1's protocol: questions, replies kept one by one, figures beside the published.

`benchmarks` is the table of what there is, `questions` reads it; `local` and `remote` reply; `work`
draws and grades, and goes on where it was stopped; `evaluate` asks benchmarks; `metrics`, `votes`
and `rating` are the figures; `results` puts them together, `table` shows them beside `reported`.
"""
