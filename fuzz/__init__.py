"""Fuzzing of everything that reads bytes from others: `make fuzz`."""
