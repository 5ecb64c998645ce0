"""Settling the open provider facts (`cache.facts`) by live calls: experiments as values, and what carries them out.

The rule: what is sent, when, and what each answer would mean is fixed before anything is sent; the shell only sends,
waits, counts money and writes down what usage said. It does not know who runs it.
"""
