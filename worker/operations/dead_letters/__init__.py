"""What an operator may do about dead letters. The pure part is in `worker/core/dead_letters.py`."""
