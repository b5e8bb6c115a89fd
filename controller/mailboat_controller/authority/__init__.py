"""Signing: the offline ceremony, CI's and the approver's roles, the controller's online keys.

Verification lives in `mailboat_schemas.trust`. Nothing in here runs on a device.
"""
