"""Calls to paid or shared HTTP endpoints: limits, retries, deadlines, typed failures, secrets.

It knows nothing of what is asked: chat and image endpoints pass in a function that sends one request
once. One `EndpointCaller` lives in the one actor that owns an endpoint, so its limits hold for all agents.
"""
