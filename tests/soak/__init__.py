"""Trials that wear a store out: the short forms are tests, the long forms are ``make soak``."""
