"""The device's HTTP front: Open Inference Protocol v2 on loopback and on a Unix socket.

``listeners`` opens the sockets, ``connection`` reads requests and writes answers, ``routes`` says
what is asked for, ``exchange`` takes an inference from its body's bytes to those of its answer.
"""
