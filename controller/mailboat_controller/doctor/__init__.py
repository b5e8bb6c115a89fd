"""What stands between an operator and their controller, check by check, each with its fix.

`reaching.py` goes from the name to the handshake, `access.py` asks the controller, `broker.py`
tries what the broker lets through, `disk.py` looks at the controller's own data where that is here.
"""
