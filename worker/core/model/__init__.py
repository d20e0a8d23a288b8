"""The values that every stage shares: frozen, and checked when they are made. They decide nothing."""
