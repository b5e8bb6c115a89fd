"""Deciding how a rollout goes on. Pure: values in, values out; no I/O, no clock, no await."""
