"""When the disk is read again, and how fast. Imports nothing: the configuration names it too."""

CHECK_SECONDS = 86_400.0  # a bad sector is found within a day; a model of 5 GB is 5 GB read a day
CHECK_JITTER = 0.1  # of the interval, either way: a fleet must not read in step
CHECK_BYTES_PER_SECOND = 8 << 20  # an SD card reads some 40 MB/s; the model shall not notice
# After a start, so that a device which is switched off every night is looked at all the same.
FIRST_CHECK_SECONDS_MAX = 3600.0
