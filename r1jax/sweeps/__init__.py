"""Many runs that differ in a few fields: what a grid is, and how its members are run."""
