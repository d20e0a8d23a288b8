"""Pure decisions: values in, values out.

For whoever edits here: no await, no clock, no randomness, no logging, no IO. What the world says (the time, a
jitter, an answer) comes in as an argument. import-linter refuses the imports that would break this.
"""
