"""Scored footage handed on to people who cut films and to people who count animals.

One module for each family of formats. All of them read the plain values of `values.py`; `export.py` alone knows the
names of the formats and which files they become.
"""
