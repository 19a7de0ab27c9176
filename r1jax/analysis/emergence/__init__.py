"""Did reflection emerge? Logged rollouts in; numbers with intervals, a verdict and a page out.

logs       replies of a run, of this project or of others, as one kind of row
words      reflective terms: which, where in a reply, in what context
structure  what a reply does: candidate answers, verdicts on them, further attempts
table      both over all replies of a run, as columns
series     totals a step, and such totals drawn again
intervals  intervals clustered by question, exact tests
changes    the one step at which a share rises, with its error rate
growth     when a series begins to rise and ends; sudden or gradual; phases; order
coverage   pass@k, and what became of the questions that could be solved
stages     the numbers of one moment: the base, the end
measure    all of it for one run
causes     what a ban, a placebo or a forced check does to accuracy
interventions, bans, edits, intervened     drawing replies under such conditions, for `causes`
rules      over one run, each with its inputs; the thresholds
verdict    what the runs of a configuration agree on, and what is missing; flags
curves, figures, intervals_drawn, grids    what is drawn
says, show, page, report                   what is written
"""
