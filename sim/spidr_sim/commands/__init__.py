"""The commands of the simulated board, by what they are about: each group gives its part of the table."""
