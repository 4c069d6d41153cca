"""A FastAPI application in Ray Serve that answers as Ray Serve LLM and its proxy do when things go wrong.

Run as `python ray_serve.py PORT`. A stand-in: the model's name says what happens, no model is there.
"""

import asyncio
import signal
import sys
import threading
from typing import Any

import ray
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from ray import serve

api = FastAPI()


LIMIT = 4
"""Images in one request that the model `images` takes."""
TOO_LONG = "This model's maximum context length is 512 tokens. However, your request has 900 input tokens."
TOO_MANY = f"At most {LIMIT} image(s) may be provided in one prompt."


def refused(words: str) -> JSONResponse:
    """Return an error of the engine as Ray Serve LLM wraps it."""
    named = f"{words} (Request ID: 7f)"
    message = f"Message: {named}, Internal exception: {named}, original exception: {words}"
    return JSONResponse({"error": {"message": message, "type": "VLLMValidationError", "code": 400}}, 400)


def n_images(body: dict[str, Any]) -> int:
    contents = (each["content"] for each in body["messages"] if isinstance(each["content"], list))
    return sum(part["type"] == "image_url" for content in contents for part in content)


@serve.deployment
@serve.ingress(api)
class Stub:
    @api.post("/v1/chat/completions")
    async def complete(self, request: Request) -> Any:
        body = await request.json()
        match body["model"]:
            case "loading":
                return JSONResponse({"detail": "still loading"}, 503, {"Retry-After": "1"})
            case "slow":
                raise HTTPException(408, "Request timed out after 1s.")
            case "locked":
                raise HTTPException(401, "Invalid API key")
            case "short":
                return refused(TOO_LONG)
            case "images" if n_images(body) > LIMIT:
                return refused(TOO_MANY)
            case "hanging":
                await asyncio.Event().wait()
            case "broken":
                raise RuntimeError("a bug in the deployment")
        text = "" if body["model"] == "empty" else "red, blue"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"object": "chat.completion", "model": body["model"], "choices": choices, "usage": usage}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Stub.bind(), route_prefix="/app")
    print("serving", flush=True)
    try:
        threading.Event().wait()
    finally:
        ray.shutdown()  # which ends the cluster that this process started
