"""Operations on dead letters: list, show, plan, replay, discard, export, import.

The pure part is in `worker/core/dead_letters.py`.
"""
