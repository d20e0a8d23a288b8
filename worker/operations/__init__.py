"""Use cases for people: what a front end (the command line, a console) lets them do besides running a worker.

Functions take ports as parameters and return values or yield progress. They print nothing, ask nothing, open
nothing: a front end does that.
"""
