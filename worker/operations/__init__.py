"""Use cases that a front end (the command line, a console) offers to people, besides running a worker.

Functions take ports as parameters and return values or yield progress. The front end opens the ports, asks
questions and prints.
"""
