"""The stages of R1 over the rooms that train, draw and grade."""
