"""Did reflection emerge? Logged rollouts in; numbers with intervals, a verdict and a page out.

logs       replies of a run, of this project or of others, as one kind of row
words      reflective terms: which, where in a reply, in what context
structure  what a reply does: candidate answers, verdicts on them, further attempts
table      both over all replies of a run, as columns
intervals  intervals clustered by question, exact tests
changes    the one step at which a series changes, with its error rates
growth     when a series begins, is half way and ends; sudden or gradual; phases
coverage   pass@k and what became of the questions that could be solved
measure    all of it for one run
causes     what a ban, a placebo or a forced check does to accuracy
verdict    rules over the above, each with its inputs
figures, report    what is shown of it
"""
