"""Holds, pins and labels of single devices: recorded, audited, and told to the device."""
