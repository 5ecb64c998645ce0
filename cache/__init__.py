"""What a prompt's prefix is worth, and keeping it warm. Standard library only: no I/O, clock, randomness."""
