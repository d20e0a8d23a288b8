"""The conclusions of each kind of step. `worker/core/conclude.py` chooses among them."""
