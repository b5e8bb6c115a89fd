"""What this host lacks, and what to do about it: every check in the order a person would look.

`examine.examine` runs them all. A check reads, connects, and starts one worker; it changes nothing,
takes no session from a running agent, and prints no secret.
"""
