"""Pure decisions: values in, values out.

Rules for editors: no await, no clock, no randomness, no logging, no IO. The time, a jitter and a response
come in as arguments. import-linter refuses imports that would break this.
"""
