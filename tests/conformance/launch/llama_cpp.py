"""llama.cpp's own server, from its Python wheel: `python llama_cpp.py MODEL.gguf PORT CONTEXT [KEY]`."""

from __future__ import annotations

import sys
import threading

import xllamacpp

if __name__ == "__main__":
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.hostnames, parameters.port = ["127.0.0.1"], int(sys.argv[2])
    parameters.n_ctx = int(sys.argv[3])
    parameters.n_parallel, parameters.cpuparams.n_threads = 1, 2
    parameters.warmup = False
    parameters.api_keys = sys.argv[4:]
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    threading.Event().wait()
