"""Says where the commands are: python -m r1jax."""

print("The commands are listed by: python -m experiments")
