"""Inference servers: how they are reached, checked, started and fed.

tritonclient and grpc are imported here alone.
"""
