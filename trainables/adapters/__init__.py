"""Trials as other frameworks run them; only here may ``trainables`` import one."""
