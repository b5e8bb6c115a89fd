"""A developer's bundle: made of a model, tried as on a device, made smaller, and reported on.

The model runs in the agent's worker, never in this process (`device_process`). What is proposed
(`proposal`), compared (`comparison`), judged (`gates`) and drawn (`plot`) is pure.
"""
