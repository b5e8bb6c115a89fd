"""Why a device runs what it runs, and what a rollout would do: `explain` and `plan`.

Both ask `mailboat_schemas.eligibility`, which is what the device decides with.
"""
